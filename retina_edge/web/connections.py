"""Limits on connections: a client that sends no whole request, or does not read, cannot hold a connection.

They extend uvicorn's protocols, which limit neither, through the callbacks of ``asyncio.Protocol`` and the ASGI state
of a connection. Of uvicorn's internals they need the set of connections and the answer to invalid data.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol
from uvicorn.server import ServerState

# Seconds that a client has to send a whole request, to start the next one, and to read what the server sends.
CLIENT_SECONDS = 10.0
# Largest number of connections. One more replaces the connection for whose client the server has waited longest.
MAX_CONNECTIONS = 128
_KEY = "client_wait"


class ClientWait:
    """The wait for the client of one connection, which is aborted after ``CLIENT_SECONDS``.

    The server waits for the client unless it answers a request, and while the client does not read. Only the thread of
    the event loop uses this object.

    Attributes:
        since: time of the event loop at which the wait began, seconds; None while the client waits for the server.
        unread: True if more output waits for the client than the transport wants to hold.
        ended: True if the connection was lost or aborted.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.unread = self.ended = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answers = 0

    def start(self, transport: asyncio.Transport) -> None:
        """Begin to wait for the first request. If a WebSocket takes over the connection, nothing changes."""
        self._transport = transport
        self._update()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Do not count the block as a wait, except while the client does not read."""
        # A client may send requests before it has received the answers to earlier ones, so count them.
        self._answers += 1
        self._update()
        try:
            yield
        finally:
            self._answers -= 1
            self._update()

    def set_unread(self, unread: bool) -> None:
        """Set ``unread``."""
        self.unread = unread
        self._update()

    def abort(self) -> None:
        """Close the connection at once, and discard the output that waits, in the kernel too."""
        self.end()
        if self._transport is not None:
            # Reset the connection: else the kernel would keep the output for minutes, for a client that does not read.
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()

    def end(self) -> None:
        """Stop waiting, because the connection is lost."""
        self.ended = True
        self._update()

    def _update(self) -> None:
        waits = not self.ended and (self.unread or not self._answers)
        if waits and self._timer is None:
            loop = asyncio.get_running_loop()
            self.since = loop.time()
            self._timer = loop.call_later(CLIENT_SECONDS, self.abort)
        elif not waits and self._timer is not None:
            self._timer.cancel()
            self.since = self._timer = None


def client_wait(scope: Scope) -> ClientWait:
    """Return the wait for the client that has sent a request.

    Args:
        scope: ASGI scope of the request, from a server with the protocols of this module.
    """
    wait: ClientWait = scope["state"][_KEY]
    return wait


class _Limited(asyncio.Protocol):
    """The part of both protocols that limits their connections."""

    connections: set[Any]  # the protocols of all connections of the server

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # A WebSocket gets the state of the HTTP connection that it takes over.
        self.wait: ClientWait = app_state.get(_KEY) or ClientWait()
        super().__init__(config, server_state, {**app_state, _KEY: self.wait}, _loop)  # type: ignore[call-arg]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start waiting for the client, and make room if there are too many connections."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        # asyncio does this only if the listening socket names its protocol. Without it, small answers come 40 ms late.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wait.start(transport)
        waits = [protocol.wait for protocol in self.connections if not protocol.wait.ended]
        if len(waits) > MAX_CONNECTIONS:
            min((wait for wait in waits if wait.since), key=lambda wait: wait.since, default=self.wait).abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for the client."""
        if self.wait.unread:
            self.resume_writing()  # asyncio does not, and some versions of uvicorn would wait for it without end
        self.wait.end()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start waiting until the client reads."""
        super().pause_writing()
        self.wait.set_unread(True)

    def resume_writing(self) -> None:
        """Stop waiting: the client has read enough."""
        super().resume_writing()
        self.wait.set_unread(False)


class HttpConnection(_Limited, H11Protocol):
    """uvicorn's protocol for HTTP, with limits."""

    def send_400_response(self, msg: str) -> None:
        """Answer invalid data. If the data follows a request, abort the connection, because that has its own answer."""
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
        else:
            self.wait.abort()


class WebSocketConnection(_Limited, AutoWebSocketsProtocol):  # type: ignore[valid-type,misc]
    """uvicorn's protocol for WebSockets, with limits."""

    def pause_writing(self) -> None:
        """Start waiting until the client reads. Until then, do not read its pings, because pongs would pile up."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Stop waiting, and read its data again."""
        super().resume_writing()
        self.transport.resume_reading()
