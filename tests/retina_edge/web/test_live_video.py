"""Who watches, over a real server: so many at a time, and nobody who does not take what is sent keeps a place."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from retina_edge.sources.frames import Frame, Source
from retina_edge.web import live_video
from retina_edge.web.live_video import MAX_VIEWERS, ViewerLimit
from retina_edge.web.preview import Preview
from tests.made_streams import Made
from tests.retina_edge.sinks.test_sinks import result
from tests.retina_edge.web.conftest import Served, serving
from tests.waiting import wait_for

MJPEG = "/api/streams/noise/stream.mjpg"


class Noise(Made):
    """Pictures that no buffer between two processes holds many of."""

    def __init__(self) -> None:
        super().__init__("noise", rate=30, live=True)
        self._image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            yield Frame(self._image, frame.index, None, frame.name)


def noisy() -> dict[str, Callable[[], Source]]:
    return {"noise": Noise, "other": Noise}


@contextmanager
def stalled(url: str) -> Iterator[None]:
    """A client that asks for moving pictures, and reads no more than how that begins."""
    address = urlsplit(url)
    with ExitStack() as stack:

        def has_a_place() -> bool:
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((address.hostname, address.port))
            client.sendall(f"GET {MJPEG} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            return client.recv(12) == b"HTTP/1.1 200"

        wait_for(has_a_place)
        yield


def mjpeg_status(url: str) -> int:
    with httpx.stream("GET", url + MJPEG) as response:
        return response.status_code


def test_there_is_room_for_so_many_watchers(served: Served) -> None:
    url, path = served.url.replace("http", "ws") + "/api/watch", "/api/streams/north/stream.mjpg"

    def status() -> int:
        with httpx.stream("GET", served.url + path) as response:
            return response.status_code

    with ExitStack() as stack:
        for watcher in [stack.enter_context(connect(url)) for _ in range(MAX_VIEWERS)]:
            watcher.recv(timeout=15)
        full = httpx.get(served.url + path)
        assert (full.status_code, full.json()) == (503, {"detail": f"as many watch as can ({MAX_VIEWERS})"})
        with connect(url) as one_more, pytest.raises(ConnectionClosed) as refused:
            one_more.recv(timeout=15)
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 1013
    wait_for(lambda: status() == 200)  # who goes makes room


def test_who_goes_gives_the_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_video, "MAX_VIEWERS", 1)
    with serving(sources=noisy()) as server:
        for _ in range(3):
            with stalled(server.url):
                assert mjpeg_status(server.url) == 503
            wait_for(lambda: mjpeg_status(server.url) == 200, live_video.SEND_SECONDS / 2)


def test_who_takes_nothing_loses_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_video, "MAX_VIEWERS", 1)
    monkeypatch.setattr(live_video, "SEND_SECONDS", 0.5)
    with serving(sources=noisy()) as server, stalled(server.url):
        assert mjpeg_status(server.url) == 503
        wait_for(lambda: mjpeg_status(server.url) == 200)


def test_who_takes_nothing_does_not_hold_up_the_end() -> None:
    with ExitStack() as stack:
        with serving(sources=noisy()) as server:
            stack.enter_context(stalled(server.url))
            stack.enter_context(connect(server.url.replace("http", "ws") + "/api/watch", close_timeout=0.1))
            time.sleep(1)  # until nothing more is taken
            start = time.monotonic()
        assert time.monotonic() - start < 5


def test_more_streams_than_a_byte_counts() -> None:
    """A folder of films may be so many."""
    streams = [SimpleNamespace(latest=None) for _ in range(300)]
    streams[298].latest = result()
    sent: list[bytes] = []

    class Watcher:
        async def accept(self) -> None:
            pass

        async def receive(self) -> None:
            await asyncio.Event().wait()

        async def send_bytes(self, data: bytes) -> None:
            sent.append(data)

    previews = [Preview(stream) for stream in streams]  # type: ignore[arg-type]
    asyncio.run(live_video.watch(Watcher(), previews, ViewerLimit(1), lambda: not sent))  # type: ignore[arg-type]
    assert [int.from_bytes(data[:2], "big") for data in sent] == [298]
    assert sent[0][2:4] == b"\xff\xd8"
