"""The transport for MQTT with QoS 1: a message counts as delivered when the broker has acknowledged it.

The queue and the automatic reconnection of paho-mqtt are not used. The spool is the queue, and every connection has a
new client. Messages therefore stay in order, and a message is resent only from the spool, not by the client as well.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, unquote

from engines.core.errors import MissingDependencyError
from retina_edge.delivery.address import Address, AddressError
from retina_edge.delivery.spool_file import Message
from retina_edge.delivery.transport import ReceiverUnreachable, Transport, network_reason

if TYPE_CHECKING:
    from paho.mqtt.client import Client

QOS = 1
KEEPALIVE_SECONDS = 30
TIMEOUT_SECONDS = 10.0
CLOSE_SECONDS = 1.0
# Messages that paho keeps in flight before it waits for an acknowledgment.
BATCH = 20
ONLINE, OFFLINE = b"online", b"offline"


class _ClosedOnFailure(ssl.SSLSocket):
    """A TLS socket that closes if its handshake fails. paho would leave it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class MqttTransport(Transport):
    """A transport that sends messages by MQTT 3.1.1, with paho-mqtt.

    The retained status ``TOPIC/status`` is ``online`` while the transport is connected. It becomes ``offline`` when the
    transport closes, or by the last will when the connection is lost. The messages themselves are not retained.

    Args:
        address: address with the scheme ``mqtt`` or ``mqtts``; its path is the topic, and its query
            ``?client_id=NAME`` overrides ``client_id``.
        client_id: name of this client, the same in every run, so that the broker ends an earlier connection.
        timeout: seconds for connecting, and for each acknowledgment.

    Raises:
        AddressError: if the topic is missing or has wildcards.
        MissingDependencyError: if paho-mqtt is not installed.
    """

    batch = BATCH

    def __init__(self, address: Address, *, client_id: str, timeout: float = TIMEOUT_SECONDS) -> None:
        try:
            from paho.mqtt import client, enums
        except ImportError as error:
            raise MissingDependencyError("events over MQTT need paho-mqtt: pip install 'retina-edge[serve]'") from error
        self._new = partial(client.Client, enums.CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        self._address = address
        self._topic = unquote(address.path.removeprefix("/"))
        self.name = f"{address.scheme}://{address.location}/{self._topic}"
        if not self._topic or set(self._topic) & set("+#\0") or self._topic.startswith("$"):
            raise AddressError(
                f"{self.name}: expected a topic after the host, without + and #, for instance "
                f"{address.scheme}://{address.location}/cameras/gate"
            )
        options = parse_qs(address.query, keep_blank_values=True)
        self._client_id = options.pop("client_id", [client_id])[-1]
        if options or not self._client_id:
            raise AddressError(f"{self.name}: expected only client_id=NAME after ?")
        self._timeout = timeout
        self._client: Client | None = None
        self._changed = threading.Condition()
        self._answer: str | None = None
        self._accepted = False
        self._confirmed: set[int] = set()
        self._lost: str | None = None

    def connect(self) -> bool:
        if self._client is not None:
            with self._changed:
                lost = self._lost
            if lost is None:
                return True
            self._drop()
            raise ReceiverUnreachable(lost)
        self._confirmed, self._answer, self._accepted, self._lost = set(), None, False, None
        self._client = client = self._new_client()
        default = 8883 if self._address.scheme == "mqtts" else 1883
        try:
            client.connect(self._address.host, self._address.port or default, KEEPALIVE_SECONDS)
            client.loop_start()
            self._await(lambda: self._answer is not None)
            if not self._accepted:
                raise ReceiverUnreachable(f"the broker refuses the connection: {self._answer}")
            self._publish_and_wait(f"{self._topic}/status", ONLINE, retain=True)
        except (OSError, ValueError) as error:
            self._drop()
            raise ReceiverUnreachable(f"the broker cannot be reached: {network_reason(error)}") from error
        except BaseException:
            self._drop()
            raise
        return True

    def deliver(self, messages: Sequence[Message]) -> Iterator[Message]:
        client = self._client
        if client is None:
            raise ReceiverUnreachable("not connected")
        try:
            sent = [(message, client.publish(self._topic, message.payload, QOS).mid) for message in messages]
            for message, mid in sent:
                self._await(lambda mid=mid: mid in self._confirmed)  # type: ignore[misc]
                yield message
        except ReceiverUnreachable:
            self._drop()
            raise
        except (OSError, ValueError) as error:
            self._drop()
            raise ReceiverUnreachable(f"the broker cannot be reached: {network_reason(error)}") from error

    def close(self) -> None:
        if self._client is None:
            return
        with suppress(ReceiverUnreachable, OSError, ValueError):
            self._timeout = min(self._timeout, CLOSE_SECONDS)
            self._publish_and_wait(f"{self._topic}/status", OFFLINE, retain=True)
            self._client.disconnect()  # after this, the broker discards the last will
            with self._changed:
                self._changed.wait_for(lambda: self._lost is not None, CLOSE_SECONDS)
        self._drop()

    def abort(self) -> None:
        with self._changed:
            self._lost = "the delivery was stopped"
            self._changed.notify_all()

    def _new_client(self) -> Client:
        client = self._new(client_id=self._client_id)
        client.connect_timeout = self._timeout
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if self._address.scheme == "mqtts":
            context = ssl.create_default_context()
            context.sslsocket_class = _ClosedOnFailure
            client.tls_set_context(context)
        client.will_set(f"{self._topic}/status", OFFLINE, QOS, retain=True)

        # A late callback of a client that was dropped must not change the state of its successor.
        def on_connect(caller: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
            with self._changed:
                if caller is self._client:
                    self._answer, self._accepted = str(code), not code.is_failure
                    self._changed.notify_all()

        def on_publish(caller: Client, _data: Any, mid: int, _code: Any, _properties: Any) -> None:
            with self._changed:
                if caller is self._client:
                    self._confirmed.add(mid)
                    self._changed.notify_all()

        def on_disconnect(caller: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
            with self._changed:
                if caller is self._client and self._lost is None:
                    self._lost = f"the connection to the broker was lost: {code}"
                    self._changed.notify_all()

        client.on_connect, client.on_publish, client.on_disconnect = on_connect, on_publish, on_disconnect
        return client

    def _publish_and_wait(self, topic: str, payload: bytes, *, retain: bool) -> None:
        assert self._client is not None
        mid = self._client.publish(topic, payload, QOS, retain).mid
        self._await(lambda: mid in self._confirmed)

    def _await(self, arrived: Callable[[], bool]) -> None:
        """Wait for an answer of the broker, which the client's thread records."""
        deadline = time.monotonic() + self._timeout
        with self._changed:
            # An answer that has arrived counts, even if the connection was lost after it.
            while not arrived():
                if self._lost is not None:
                    raise ReceiverUnreachable(self._lost)
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise ReceiverUnreachable(f"the broker does not answer within {self._timeout:g} s")

    def _drop(self) -> None:
        """End the client's thread and its connection, without a disconnect message."""
        client, self._client = self._client, None
        if client is None:
            return
        if (sock := client.socket()) is not None:
            # Shut the socket down without closing it: the client's thread may be reading, and closes it.
            # ``SSLSocket.shutdown`` is not made for use from another thread, so call the method of the base class.
            with suppress(OSError):
                socket.socket.shutdown(cast(socket.socket, sock), socket.SHUT_RDWR)
        client.loop_stop()
