"""A web server in another thread, which records events and answers as a test wants."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[["Handler"], None]


@dataclass
class Server:
    """The state of the server: the requests that it received, and the answers to give next.

    Attributes:
        port: port that the server listens on.
        requests: path, headers and body of each request.
        connections: number of connections.
        answers: answers to the next requests; then the server answers with status 200.
    """

    port: int = 0
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        """The numbers ``i`` of the events, in the order of the requests."""
        return [json.loads(body)["i"] for _, _, body in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def setup(self) -> None:
        super().setup()
        self.state.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.state.requests.append((self.path, dict(self.headers), body))
        answer = self.state.answers.pop(0) if self.state.answers else status(200)
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def status(code: int, **headers: str) -> Answer:
    """Return an answer with a status code and headers."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in {**headers, "Content-Length": "2"}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(b"{}")

    return answer


def hang(handler: Handler) -> None:
    """Answer nothing until the client disconnects, at most for 10 s."""
    handler.connection.settimeout(10)
    handler.rfile.read(1)
    handler.close_connection = True


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server, with TLS if a context is given, and yield its state."""
    state = Server()
    handler = type("BoundHandler", (Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        state.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
