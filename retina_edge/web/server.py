"""The web server of ``serve``: uvicorn with limits on connections and log lines."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from retina_edge.web.access import AccessControl
from retina_edge.web.connections import MAX_CONNECTIONS, HttpConnection, WebSocketConnection
from retina_edge.web.log_limit import PERIOD, RepeatLimit

# When the server shuts down, it waits this many seconds for viewers to disconnect.
SHUTDOWN_SECONDS = 2


class WebServer(uvicorn.Server):
    """A server that runs until ``should_exit`` is set. The caller handles signals.

    Args:
        app: the application.
    """

    def __init__(self, app: AccessControl) -> None:
        self._repeats = RepeatLimit()
        super().__init__(
            uvicorn.Config(
                app,
                http=HttpConnection,
                ws=WebSocketConnection,
                log_level="warning",
                lifespan="off",  # unused, and prints a traceback if a second Ctrl-C interrupts it
                access_log=False,  # for the privacy of viewers
                server_header=False,
                # asyncio accepts this many connections before the limit on connections can act.
                backlog=MAX_CONNECTIONS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                ws_max_size=1024,
                callback_notify=self._report,
                timeout_notify=PERIOD,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on listening sockets until ``should_exit`` is set."""
        with self._repeats.applied_to("uvicorn.error", "asyncio"):
            await super().serve(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the caller: uvicorn would raise them again, and end the process before files are closed."""
        yield

    async def _report(self) -> None:
        self._repeats.report()
