"""Connections of clients that send no whole request, or do not read: they end, and the server answers others."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from retina_edge.web import connections, live_video
from retina_edge.web.connections import ClientWait
from tests.retina_edge.web.serving import TOKEN, Served, serving
from tests.retina_edge.web.test_live_video import noisy
from tests.waiting import wait_for

LIMIT = 0.5  # seconds that the clients of these tests have
GET = b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
WATCH = (
    b"GET /api/watch HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# A ping with 125 bytes, masked with zeros as clients must mask.
PING = b"\x89\xfd" + bytes(4) + bytes(125)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that requires the token and gives clients little time."""
    monkeypatch.setattr(connections, "CLIENT_SECONDS", LIMIT)
    with serving(TOKEN) as server:
        yield server


def opened(stack: ExitStack, server: Served, data: bytes = b"", buffer: int | None = None) -> socket.socket:
    """Return a connection on which data has been sent, with a receive buffer of some bytes."""
    address = urlsplit(server.url)
    client = stack.enter_context(socket.socket())
    if buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(10)
    client.connect((address.hostname, address.port))
    client.sendall(data)
    return client


def has_ended(client: socket.socket) -> bool:
    """Read what a connection holds. Return True if the server has closed or aborted it."""
    client.setblocking(False)
    try:
        while client.recv(2**20):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def is_reset(client: socket.socket) -> bool:
    """Return True if the server has aborted a connection, without a read from it."""
    try:
        client.getpeername()
    except OSError:
        return True
    return False


def test_idle_connections_keep_no_place(impatient: Served) -> None:
    unfinished = (
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: localh",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\n\r\ntoken=",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ntok",
        WATCH[:-4],
    )
    with ExitStack() as stack:
        idle = [opened(stack, impatient, data) for data in unfinished * 40]
        start = time.monotonic()
        assert httpx.get(f"{impatient.url}/healthz").status_code == 200
        headers = {"authorization": f"Bearer {TOKEN}"}
        for path in ("/", "/api/streams", "/metrics"):
            assert httpx.get(impatient.url + path, headers=headers).status_code == 200
        with connect(impatient.url.replace("http", "ws") + "/api/watch", additional_headers=headers) as viewer:
            assert viewer.recv(timeout=5)
            wait_for(lambda: all(map(has_ended, idle)), 5)
            assert time.monotonic() - start < LIMIT + 2
            assert viewer.recv(timeout=5)  # the limits are not for viewers


def test_bytes_that_trickle_in_do_not_extend_the_time(impatient: Served) -> None:
    with ExitStack() as stack:
        first, second = opened(stack, impatient), opened(stack, impatient, GET)
        start = time.monotonic()
        while not (has_ended(first) and has_ended(second)):
            assert time.monotonic() - start < LIMIT + 2
            for client in (first, second):  # the first sends an endless header, the second another one after a request
                with suppress(OSError):
                    client.send(b"a")
            time.sleep(0.05)
        assert time.monotonic() - start > LIMIT / 2


def test_a_client_that_keeps_sending_requests_keeps_its_connection(impatient: Served) -> None:
    client = HTTPConnection(urlsplit(impatient.url).netloc)
    client.connect()
    kept = client.sock
    for path, status in (("/page.css", 200), ("/api/streams", 401)) * 4:
        client.request("GET", path)
        answer = client.getresponse()
        answer.read()
        assert (answer.status, client.sock) == (status, kept)
        time.sleep(LIMIT / 4)
    client.close()


def test_answers_that_are_not_read_end_the_connection(impatient: Served) -> None:
    with ExitStack() as stack:
        client = opened(stack, impatient, buffer=4096)
        client.setblocking(False)
        start = time.monotonic()
        while not is_reset(client):
            assert time.monotonic() - start < 10
            with suppress(OSError):
                client.send(GET * 1000)
            time.sleep(0.02)
        assert httpx.get(f"{impatient.url}/healthz").status_code == 200


def test_the_number_of_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    with serving() as server, ExitStack() as stack:
        url = server.url.replace("http", "ws") + "/api/watch"
        viewers = [stack.enter_context(connect(url)) for _ in range(10)]
        idle = [opened(stack, server) for _ in range(50)]
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        wait_for(lambda: sum(map(has_ended, idle)) >= 40, 3)
        assert not has_ended(idle[-1])  # the oldest make room
        assert all(viewer.recv(timeout=5) for viewer in viewers)


def can_watch(server: Served) -> bool:
    """Return True if a viewer is admitted."""
    with connect(server.url.replace("http", "ws") + "/api/watch") as viewer:
        try:
            return bool(viewer.recv(timeout=5))
        except ConnectionClosed:
            return False


def pings(client: socket.socket) -> None:
    """Send as many pings as a connection takes."""
    with suppress(OSError):
        client.send(PING * 2000)


def nothing(_: socket.socket) -> None:
    """Send nothing."""


@pytest.mark.parametrize("act", [pings, nothing])
def test_a_viewer_that_does_not_read_is_aborted(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[socket.socket], None]
) -> None:
    monkeypatch.setattr(connections, "CLIENT_SECONDS", 2 * LIMIT)
    monkeypatch.setattr(live_video, "MAX_VIEWERS", 1)
    start, transports = ClientWait.start, []

    def start_noting(wait: ClientWait, transport: asyncio.Transport) -> None:
        transports.append(transport)
        start(wait, transport)

    monkeypatch.setattr(ClientWait, "start", start_noting)
    with serving(sources=None if act is pings else noisy()) as server, ExitStack() as stack:
        client = opened(stack, server, WATCH, buffer=4096)
        assert client.recv(12) == b"HTTP/1.1 101"
        client.setblocking(False)
        begin, waiting = time.monotonic(), 0
        while not is_reset(client):
            assert time.monotonic() - begin < 10
            waiting = max(waiting, transports[0].get_write_buffer_size())
            act(client)
            time.sleep(0.001)
        assert time.monotonic() - begin > LIMIT
        assert 2**16 <= waiting < 2**19, "expected at most a frame, or the pongs of one read"
        wait_for(lambda: can_watch(server), 1)  # the place is free again


def test_garbage_is_logged_once_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)  # how a client of TLS begins
    length = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n"
    chunk = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n"
    upgrade = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "filters", [])  # of the servers that other tests share
    with serving(TOKEN) as server, ExitStack() as stack:
        clients = [opened(stack, server, data) for data in (tls, length, chunk, upgrade) * 10]
        wait_for(lambda: all(map(has_ended, clients)), 5)
    assert capsys.readouterr().err.splitlines() == [
        "WARNING:  Invalid HTTP request received.",
        "WARNING:  Unsupported upgrade request.",
        "WARNING:  29 more lines like: Invalid HTTP request received.",
        "WARNING:  9 more lines like: Unsupported upgrade request.",
    ]


def test_garbage_after_an_answer_ends_the_connection_without_a_word(
    guarded: Served, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        client = opened(stack, guarded, b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 401")
        client.sendall(b"no chunk\r\n" * 3)
        wait_for(lambda: has_ended(client), 10)
    assert "Traceback" not in capsys.readouterr().err
    assert not [record for record in caplog.records if record.exc_info]
