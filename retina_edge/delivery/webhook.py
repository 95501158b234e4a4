"""The transport for webhooks: one POST per message, which counts as delivered when the server answers 2xx.

It uses ``http.client`` of the standard library: one connection that is kept open, no redirects, no proxies. Unlike
larger clients, ``http.client`` does not write addresses to the log.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import quote

from retina_edge.delivery.address import Address
from retina_edge.delivery.spool_file import Message
from retina_edge.delivery.transport import MessageRefused, ReceiverUnreachable, Transport, network_reason

TIMEOUT_SECONDS = 10.0
# Largest body of an answer that is read, bytes. Only the status matters, so a longer body closes the connection.
MAX_BODY_BYTES = 64 * 1024
# Environment variable with the secret that signs the body; unset for no signature.
SECRET_VARIABLE = "RETINA_EDGE_WEBHOOK_SECRET"
SIGNATURE_HEADER = "X-Retina-Edge-Signature-256"
KEY_HEADER = "Idempotency-Key"
# Statuses that depend on the time or the credentials, not on the message, so that a retry may succeed.
_TRY_AGAIN = {
    HTTPStatus.REQUEST_TIMEOUT: "timed out waiting for the request (408)",
    HTTPStatus.TOO_EARLY: "asks for the request to be sent later (425)",
    HTTPStatus.TOO_MANY_REQUESTS: "asks for fewer requests (429)",
    HTTPStatus.UNAUTHORIZED: "refuses access (401); check the user and the password",
    HTTPStatus.FORBIDDEN: "refuses access (403); check the credentials and the address",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "is a proxy that refuses access (407)",
}


class WebhookTransport(Transport):
    """A transport that sends messages as JSON by POST. It verifies TLS certificates and does not follow redirects.

    Every request has the header ``Idempotency-Key``, which is the same for every attempt at a message. With a secret,
    it also has ``X-Retina-Edge-Signature-256: sha256=HEX``, the HMAC-SHA256 of the body.

    Args:
        address: address with the scheme ``http`` or ``https``; user and password become basic authentication.
        secret: key of the signature; None for no signature.
        timeout: seconds for a request, from its start to the end of the answer.

    Examples:
        >>> WebhookTransport(Address.parse("https://example.org/hooks/secret?key=1")).name
        'https://example.org/***'
    """

    def __init__(self, address: Address, *, secret: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        # The path of a webhook is often its password.
        self.name = f"{address.scheme}://{address.location}" + (
            "/***" if address.path.strip("/") or address.query else ""
        )
        self._address = address
        self._secret = secret.encode() if secret else None
        self._timeout = timeout
        self._connection = self._new_connection()
        # A separate reference, because the connection drops its own while an answer without a length is being read.
        self._sock: socket.socket | None = None
        self._aborted = False

    def connect(self) -> bool:
        return False

    def deliver(self, messages: Sequence[Message]) -> Iterator[Message]:
        for message in messages:
            status, retry_after = self._post(message)
            if 200 <= status < 300:
                yield message
            elif status in _TRY_AGAIN:
                raise ReceiverUnreachable(f"the server {_TRY_AGAIN[HTTPStatus(status)]}", retry_after=retry_after)
            elif 400 <= status < 500:
                raise MessageRefused(f"the server refuses the message ({status})")
            elif 300 <= status < 400:
                raise ReceiverUnreachable(
                    f"the server redirects ({status}), and redirects are not followed; use the final address"
                )
            else:
                raise ReceiverUnreachable(f"the server reports an error ({status})", retry_after=retry_after)

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        self._aborted = True
        self._shut_down()

    def _shut_down(self) -> None:
        """End a read that waits in another thread. Closing the socket would not end the read.

        ``SSLSocket.shutdown`` is not made for use from another thread, so call the method of the base class.
        """
        if (sock := self._sock) is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _post(self, message: Message) -> tuple[int, float | None]:
        """Post a message, and return the status and the seconds to wait before a retry.

        A connection that the server closed while it was idle is opened again.
        """
        reused = self._connection.sock is not None
        try:
            return self._request(message)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if not reused or self._aborted:
                raise ReceiverUnreachable(f"the server cannot be reached: {network_reason(error)}") from error
        return self._post(message)

    def _request(self, message: Message) -> tuple[int, float | None]:
        connection = self._connection
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._shut_down()

        # The socket's timeout limits only each single read. A server that sends byte after byte would never exceed it.
        watchdog = threading.Timer(self._timeout, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            if connection.sock is None:
                connection.connect()
                self._sock = connection.sock
            connection.request("POST", self._target, message.payload, self._headers(message))
            response = connection.getresponse()
            if late.is_set():  # cut off in the middle of the headers
                raise TimeoutError
            status, retry_after = response.status, _retry_after(response.getheader("Retry-After"))
            with suppress(OSError, http.client.HTTPException):  # only the status matters
                response.read(MAX_BODY_BYTES)
            if late.is_set() or not response.isclosed():
                self.close()
            return status, retry_after
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                self.close()
                raise ReceiverUnreachable(f"the server does not answer within {self._timeout:g} s") from error
            if isinstance(error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError):
                raise
            self.close()
            raise ReceiverUnreachable(f"the server cannot be reached: {network_reason(error)}") from error
        finally:
            watchdog.cancel()

    def _new_connection(self) -> http.client.HTTPConnection:
        address = self._address
        if address.scheme == "http":
            return http.client.HTTPConnection(address.host, address.port, timeout=self._timeout)
        return http.client.HTTPSConnection(
            address.host, address.port, timeout=self._timeout, context=ssl.create_default_context()
        )

    @property
    def _target(self) -> str:
        target = (self._address.path or "/") + (f"?{self._address.query}" if self._address.query else "")
        return quote(target, safe="%/?:@!$&'()*+,;=~[]")

    def _headers(self, message: Message) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "retina-edge", KEY_HEADER: message.key}
        if self._address.user is not None:
            pair = f"{self._address.user}:{self._address.password or ''}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = f"sha256={hmac.new(self._secret, message.payload, hashlib.sha256).hexdigest()}"
        return headers


def _retry_after(value: str | None) -> float | None:
    """Parse a Retry-After header, a number of seconds or a date (RFC 9110, section 10.2.3).

    Returns:
        Seconds to wait; None if the header is missing or invalid.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, moment.timestamp() - time.time())
