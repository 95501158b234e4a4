"""Messages to a web server, one POST each: delivered when it answers 2xx.

By ``http.client`` of the standard library: one connection that is kept open, no redirects, no proxies, and nothing that
writes addresses to the log, which larger clients do.
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
# Of an answer, only its status matters; one that is longer costs the connection.
MAX_BODY_BYTES = 64 * 1024
# Signs the body where this variable holds a secret.
SECRET_VARIABLE = "RETINA_EDGE_WEBHOOK_SECRET"
SIGNATURE_HEADER = "X-Retina-Edge-Signature-256"
KEY_HEADER = "Idempotency-Key"
# What says "not now", or "not with this password", about every message alike: waiting loses nothing.
_TRY_AGAIN = {
    HTTPStatus.REQUEST_TIMEOUT: "gave up waiting for the request (408)",
    HTTPStatus.TOO_EARLY: "wants it later (425)",
    HTTPStatus.TOO_MANY_REQUESTS: "wants fewer requests (429)",
    HTTPStatus.UNAUTHORIZED: "refuses access (401); check the user and the password",
    HTTPStatus.FORBIDDEN: "refuses access (403); check the credentials and the address",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "is a proxy that refuses access (407)",
}


class WebhookTransport(Transport):
    """POSTs JSON; TLS is verified, an answer may take ``timeout`` seconds in all, and redirects are not followed.

    Every request has the header ``Idempotency-Key``, the same for every attempt at a message. With a secret it has
    ``X-Retina-Edge-Signature-256: sha256=HEX``, the HMAC-SHA256 of the body.

    Args:
        address: ``http://`` or ``https://``; user and password become basic authentication.
        secret: for the signature; None for none.
        timeout: seconds for a request, from its start to the end of the answer.
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
        # Kept apart: the connection forgets it while an answer without a length is still being read.
        self._sock: socket.socket | None = None
        self._given_up = False

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
                    f"the server redirects ({status}), which is not followed; give the final address"
                )
            else:
                raise ReceiverUnreachable(f"the server is in trouble ({status})", retry_after=retry_after)

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        self._given_up = True
        self._shut_down()

    def _shut_down(self) -> None:
        """Ends a read that waits in another thread, which closing does not; not by SSLSocket's method, which is not
        made for that."""
        if (sock := self._sock) is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _post(self, message: Message) -> tuple[int, float | None]:
        """Status and seconds to wait. A connection that the server closed while it was idle is opened again."""
        reused = self._connection.sock is not None
        try:
            return self._request(message)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if not reused or self._given_up:
                raise ReceiverUnreachable(f"the server cannot be reached: {network_reason(error)}") from error
        return self._post(message)

    def _request(self, message: Message) -> tuple[int, float | None]:
        connection = self._connection
        late = threading.Event()

        def end() -> None:
            late.set()
            self._shut_down()

        # The socket's timeout bounds each read; a server that drips would never reach it.
        watchdog = threading.Timer(self._timeout, end)
        watchdog.daemon = True
        watchdog.start()
        try:
            if connection.sock is None:
                connection.connect()
                self._sock = connection.sock
            connection.request("POST", self._target, message.payload, self._headers(message))
            response = connection.getresponse()
            if late.is_set():  # cut off amid its headers
                raise TimeoutError
            status, retry_after = response.status, _retry_after(response.getheader("Retry-After"))
            with suppress(OSError, http.client.HTTPException):  # the status says it all
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
    """Seconds in a Retry-After header, RFC 9110 section 10.2.3: a number of them, or a date; None for nonsense."""
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
