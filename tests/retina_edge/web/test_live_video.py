"""Live video over a real server: the number of viewers is limited, and a viewer that does not read is disconnected."""

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
from retina_edge.tracking.region_store import RegionStore
from retina_edge.web import connections, live_video
from retina_edge.web.live_video import MAX_VIEWERS, ViewerLimit
from retina_edge.web.preview import Preview
from tests.made_streams import Made
from tests.results import result
from tests.retina_edge.web.serving import Served, serving
from tests.waiting import wait_for

MJPEG = "/api/streams/noise/stream.mjpg"


class Noise(Made):
    """A camera with frames of noise, which are too large for a socket buffer to hold many."""

    def __init__(self) -> None:
        super().__init__("noise", rate=30, live=True)
        self._image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            yield Frame(self._image, frame.index, None, frame.name)


def noisy() -> dict[str, Callable[[], Source]]:
    """Return two sources of noise."""
    return {"noise": Noise, "other": Noise}


@contextmanager
def stalled(url: str) -> Iterator[None]:
    """Keep a client connected that requests MJPEG and reads only the start of the answer."""
    address = urlsplit(url)
    with ExitStack() as stack:

        def is_admitted() -> bool:
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((address.hostname, address.port))
            client.sendall(f"GET {MJPEG} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            return client.recv(12) == b"HTTP/1.1 200"

        wait_for(is_admitted)
        yield


def mjpeg_status(url: str) -> int:
    """Return the status code of a request for MJPEG."""
    with httpx.stream("GET", url + MJPEG) as response:
        return response.status_code


def test_the_number_of_viewers_is_limited(served: Served) -> None:
    url, path = served.url.replace("http", "ws") + "/api/watch", "/api/streams/north/stream.mjpg"

    def status() -> int:
        with httpx.stream("GET", served.url + path) as response:
            return response.status_code

    with ExitStack() as stack:
        for viewer in [stack.enter_context(connect(url)) for _ in range(MAX_VIEWERS)]:
            viewer.recv(timeout=15)
        full = httpx.get(served.url + path)
        detail = f"the limit of {MAX_VIEWERS} viewers is reached; try again later"
        assert (full.status_code, full.json()) == (503, {"detail": detail})
        with connect(url) as one_more, pytest.raises(ConnectionClosed) as refused:
            one_more.recv(timeout=15)
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 1013
    wait_for(lambda: status() == 200)  # viewers that disconnect make room


def test_a_viewer_that_disconnects_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_video, "MAX_VIEWERS", 1)
    with serving(sources=noisy()) as server:
        for _ in range(3):
            with stalled(server.url):
                assert mjpeg_status(server.url) == 503
            wait_for(lambda: mjpeg_status(server.url) == 200, connections.CLIENT_SECONDS / 2)


def test_a_viewer_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_video, "MAX_VIEWERS", 1)
    monkeypatch.setattr(connections, "CLIENT_SECONDS", 0.5)
    with serving(sources=noisy()) as server, stalled(server.url):
        assert mjpeg_status(server.url) == 503
        wait_for(lambda: mjpeg_status(server.url) == 200)


def test_viewers_that_do_not_read_do_not_delay_the_shutdown() -> None:
    with ExitStack() as stack:
        with serving(sources=noisy()) as server:
            stack.enter_context(stalled(server.url))
            stack.enter_context(connect(server.url.replace("http", "ws") + "/api/watch", close_timeout=0.1))
            time.sleep(1)  # until all buffers are full
            start = time.monotonic()
        assert time.monotonic() - start < 5


def test_stream_numbers_above_255_are_sent() -> None:
    """A folder of videos may contain that many streams."""
    streams = [SimpleNamespace(name=str(number), latest=None) for number in range(300)]
    streams[298].latest = result()
    sent: list[bytes] = []

    class Viewer:
        async def accept(self) -> None:
            pass

        async def receive(self) -> None:
            await asyncio.Event().wait()

        async def send_bytes(self, data: bytes) -> None:
            sent.append(data)

    previews = [Preview(stream) for stream in streams]  # type: ignore[arg-type]
    unchanged = RegionStore([stream.name for stream in streams], ()).regions
    asyncio.run(live_video.watch(Viewer(), previews, ViewerLimit(1), lambda: not sent, unchanged))  # type: ignore[arg-type]
    assert [int.from_bytes(data[:2], "big") for data in sent] == [298]
    assert sent[0][2:4] == b"\xff\xd8"
