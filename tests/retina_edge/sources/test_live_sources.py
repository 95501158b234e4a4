"""Streams over the network: a real RTSP server, HTTP and TCP servers of the test's own, and what goes wrong."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.core.errors import SourceError
from retina_edge.assets import FOREST
from retina_edge.sources import video_source as video
from retina_edge.sources.frames import Source
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource
from tests.media import count_frames, write_video
from tests.rtsp_server import HOST, RtspServer, free_port, why_not, write_flight
from tests.waiting import wait_for

needs_server = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is one")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg: sudo apt-get install ffmpeg")

SIZES = {"/small": (240, 320), "/large": (360, 640)}
# OpenCV's own timeouts are 30 s; these keep the tests short, and the margin a busy machine.
TIMEOUT = 1.5
MARGIN = 1.5
# Nothing takes so long here but what hangs.
LONG = 10.0
# Lossy codecs.
CODEC_LEVELS = 12


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flights")
    return {mount: write_flight(FOREST, folder / f"{mount[1:]}.mp4", size=size) for mount, size in SIZES.items()}


@pytest.fixture(scope="module")
def prepared(flights: dict[str, Path]) -> Iterator[RtspServer]:
    """The server with its videos encoded, not yet started."""
    server = RtspServer(flights)
    yield server
    server.close()


@pytest.fixture
def server(prepared: RtspServer) -> Iterator[RtspServer]:
    """A fresh process of it, on the port it always has."""
    prepared.start()
    yield prepared
    prepared.kill()


def read(source: Source, count: int) -> list[tuple[int, ...]]:
    """Shapes of so many frames, or fewer."""
    return [frame.image.shape for _, frame in zip(range(count), source, strict=False)]


@needs_server
def test_frames_flow_from_several_mounts_in_a_loop(server: RtspServer) -> None:
    for mount, size in SIZES.items():
        (source,) = open_sources([server.url(mount)])
        assert isinstance(source, VideoSource)
        assert source.live
        with source:
            assert (source.info.size, source.info.frames) == (size, None)
            assert source.info.fps == pytest.approx(25, abs=0.5)
            # More than the video has: it begins anew.
            assert read(source, 60) == [(*size, 3)] * 60
        assert source.warnings == source.errors == []


@needs_server
def test_the_picture_is_the_videos(server: RtspServer, flights: dict[str, Path]) -> None:
    with VideoSource(flights["/small"]) as file:
        sent = np.array([frame.image for frame in file], int)
    with VideoSource(server.url("/small")) as source:
        frames = iter(source)
        found = [int(np.abs(sent - next(frames).image).mean(axis=(1, 2, 3)).argmin()) for _ in range(12)]
        least = np.abs(sent - next(frames).image).mean(axis=(1, 2, 3)).min()
    assert least < CODEC_LEVELS
    # One after the other, wherever the flight was.
    assert [(number - found[0]) % len(sent) for number in found] == list(range(12))


@needs_server
def test_a_server_that_is_killed_and_comes_back(server: RtspServer) -> None:
    source = VideoSource(server.url("/small"), read_timeout=TIMEOUT)
    with source:
        for frame in source:
            if frame.index == 10:
                server.kill()
                killed = time.monotonic()
        assert time.monotonic() - killed < TIMEOUT + MARGIN
    (warning,) = source.warnings
    assert "gave no frame after" in warning
    with pytest.raises(SourceError, match=r"does not answer \(Connection refused\)"), VideoSource(server.url("/small")):
        pass
    server.start()
    returned = time.monotonic()
    with VideoSource(server.url("/small")) as again:
        assert len(read(again, 3)) == 3
    assert time.monotonic() - returned < 2


@needs_server
def test_a_server_that_hangs_is_noticed_in_time(server: RtspServer, capfd: pytest.CaptureFixture[str]) -> None:
    source = VideoSource(server.url("/small"), read_timeout=TIMEOUT)
    with source:
        for frame in source:
            if frame.index == 40:
                server.send(signal.SIGSTOP)
                stopped = time.monotonic()
        assert TIMEOUT <= time.monotonic() - stopped < TIMEOUT + MARGIN
    (warning,) = source.warnings
    assert "nothing came for 1.5 s" in warning
    start = time.monotonic()
    with pytest.raises(SourceError), VideoSource(server.url("/small"), open_timeout=TIMEOUT):
        pass
    assert time.monotonic() - start < TIMEOUT + MARGIN
    server.send(signal.SIGCONT)
    assert capfd.readouterr().err == ""


@needs_server
def test_a_read_is_ended_from_another_thread(server: RtspServer) -> None:
    source = VideoSource(server.url("/small"), read_timeout=TIMEOUT)
    with source:
        frames = iter(source)
        next(frames)
        source.interrupt()
        assert list(frames) == []
    assert source.warnings == []


@needs_server
def test_only_the_right_password_opens_and_none_is_shown(
    flights: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with RtspServer(flights, user="guard", password="s3same") as server:
        with VideoSource(server.url("/small")) as source:
            assert len(read(source, 2)) == 2
        assert "s3same" not in source.name
        for login in ("guard:wr0ng@", ""):
            with (
                pytest.raises(SourceError, match="credentials") as caught,
                VideoSource(server.url("/small", login=login)),
            ):
                pass
            assert "wr0ng" not in str(caught.value)
    shown = "".join(capfd.readouterr())
    assert "s3same" not in shown
    assert "wr0ng" not in shown


@needs_server
def test_nothing_is_left_after_many_reconnects(server: RtspServer) -> None:
    def once() -> None:
        with VideoSource(server.url("/small")) as source:
            assert len(read(source, 1)) == 1

    once()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), threading.active_count()
    for _ in range(5):
        once()
    after = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), threading.active_count()
    assert after == before


@needs_ffmpeg
def test_the_users_ffmpeg_options_stay(monkeypatch: pytest.MonkeyPatch, flights: dict[str, Path]) -> None:
    data = mpegts(flights["/small"])
    monkeypatch.setenv(video.OPTIONS, "rtsp_transport;udp")
    with serving(lambda connection: connection.sendall(data)) as url, VideoSource(url) as source:
        assert len(read(source, 1)) == 1
    assert os.environ[video.OPTIONS] == "rtsp_transport;udp"
    monkeypatch.delenv(video.OPTIONS)
    with serving(lambda connection: connection.sendall(data)) as url, VideoSource(url):
        assert os.environ[video.OPTIONS] == video.STREAM_OPTIONS


@contextlib.contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that talks to each client and then hangs up; its address."""
    stop = threading.Event()

    def answer(listener: socket.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    talk(connection)

    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            yield f"tcp://{HOST}:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def mpegts(*videos: Path) -> bytes:
    """Videos one after another in one MPEG transport stream."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i"]
    parts = [
        subprocess.run([*command, str(path), "-c", "copy", "-f", "mpegts", "-"], check=True, capture_output=True).stdout
        for path in videos
    ]
    return b"".join(parts)


@needs_ffmpeg
def test_a_transport_stream_that_ends(flights: dict[str, Path]) -> None:
    data = mpegts(flights["/small"])
    source: VideoSource
    with serving(lambda connection: connection.sendall(data)) as url:
        source = VideoSource(url)
        with source:
            assert (source.live, source.info.size) == (True, SIZES["/small"])
            assert len(list(source)) == 50
    (warning,) = source.warnings
    assert "gave no frame after 50: it ended" in warning


@needs_ffmpeg
def test_a_stream_that_changes_its_resolution_is_scaled_to_the_first(flights: dict[str, Path]) -> None:
    """OpenCV's way, which the docstring of VideoSource tells; should it change, so must the docstring."""
    data = mpegts(flights["/small"], flights["/large"])
    with serving(lambda connection: connection.sendall(data)) as url, VideoSource(url) as source:
        assert read(source, 100) == [(*SIZES["/small"], 3)] * 100


@needs_ffmpeg
def test_an_rtmp_stream(flights: dict[str, Path]) -> None:
    """FFmpeg as the server, as soon as it listens."""
    url = f"rtmp://{HOST}:{free_port()}/live/flight"
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "12", "-f", "flv"]
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(flights["/small"])]
    shapes: list[tuple[int, ...]] = []
    with subprocess.Popen([*command, *encode, "-listen", "1", url]) as process:
        try:

            def came() -> bool:
                with contextlib.suppress(SourceError), VideoSource(url) as source:
                    assert source.live
                    shapes[:] = read(source, 30)
                return bool(shapes)

            wait_for(came, 30)
            assert shapes == [(*SIZES["/small"], 3)] * 30
        finally:
            process.kill()


def test_an_mjpeg_stream_over_http() -> None:
    picture = np.full((48, 64, 3), (20, 120, 220), np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    part = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
            self.end_headers()
            for _ in range(40):
                self.wfile.write(part)
                time.sleep(0.01)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((HOST, 0), Camera) as camera:
        thread = threading.Thread(target=camera.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        source = VideoSource(f"http://{HOST}:{camera.server_port}/live?user=a&password=s3same")
        with source:
            frames = list(source)
        camera.shutdown()
        thread.join()
    assert len(frames) == pytest.approx(40, abs=1)
    assert all(np.abs(frame.image.astype(int) - picture).max() <= CODEC_LEVELS for frame in frames)
    assert "s3same" not in "".join([source.name, *source.warnings])


@contextlib.contextmanager
def opening(scheme: str, *, count: int) -> Iterator[list[tuple[VideoSource, threading.Thread]]]:
    """Sources in threads of their own, in the midst of being opened by a camera that accepts and says nothing."""
    accepted, over = threading.Event(), threading.Event()

    def hang(_connection: socket.socket) -> None:
        accepted.set()
        over.wait()

    def read_all(source: VideoSource) -> None:
        with contextlib.suppress(SourceError), source:
            list(source)

    with serving(hang) as url:
        address = url.replace("tcp", scheme)
        sources = [VideoSource(f"{address}/{number}", open_timeout=LONG) for number in range(count)]
        threads = [threading.Thread(target=read_all, args=(source,)) for source in sources]
        try:
            threads[0].start()
            assert accepted.wait(LONG)
            for thread in threads[1:]:
                thread.start()
            yield list(zip(sources, threads, strict=True))
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_an_rtsp_camera_that_hangs_holds_up_no_other_source_and_no_video(tmp_path: Path) -> None:
    with opening("rtsp", count=1) as [(camera, thread)]:
        assert count_frames(write_video(tmp_path / "film.mp4", count=5))[0] == 5
        assert thread.is_alive()
        camera.interrupt()
        thread.join(LONG / 2)
        assert not thread.is_alive()


def test_who_waits_for_a_camera_that_hangs_can_be_interrupted() -> None:
    """OpenCV opens one address at a time: the first is in its hands, the second waits for its turn."""
    with opening("http", count=2) as [(_, first), (source, second)]:
        source.interrupt()
        second.join(LONG / 2)
        assert not second.is_alive()
        assert first.is_alive()


@pytest.mark.parametrize(
    ("port", "says"),
    [(None, r"the server does not answer \(Connection refused\)"), (99999, "OpenCV cannot open it")],
)
def test_an_rtsp_server_that_is_not_there(port: int | None, says: str) -> None:
    with socket.create_server((HOST, 0)) as gone:
        free = gone.getsockname()[1]
    with pytest.raises(SourceError, match=f"{says}; check the address"), VideoSource(f"rtsp://{HOST}:{port or free}/x"):
        pass


def trickle(connection: socket.socket) -> None:
    """A byte of nothing now and then, for longer than any timeout of the tests."""
    for _ in range(300):
        connection.sendall(b"\x00")
        time.sleep(0.02)


def flood(connection: socket.socket) -> None:
    """Noise as fast as it is taken."""
    noise = np.random.default_rng(0).bytes(1 << 16)
    for _ in range(1000):
        connection.sendall(noise)


@pytest.mark.parametrize("talk", [trickle, flood, lambda _connection: None])
def test_a_stream_of_garbage_is_an_error_in_time(
    talk: Callable[[socket.socket], None], capfd: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    with serving(talk) as url:
        with (
            pytest.raises(SourceError, match=r"OpenCV cannot open it|no frame"),
            VideoSource(url, open_timeout=TIMEOUT, read_timeout=TIMEOUT) as source,
        ):
            list(source)
        assert time.monotonic() - start < 2 * TIMEOUT + MARGIN
    assert capfd.readouterr().err == ""


@needs_ffmpeg
@pytest.mark.parametrize("talk", [trickle, flood])
def test_a_stream_that_turns_into_garbage_ends_with_a_warning(
    talk: Callable[[socket.socket], None], flights: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    data = mpegts(flights["/small"])

    def turn(connection: socket.socket) -> None:
        connection.sendall(data)
        talk(connection)

    with serving(turn) as url:
        source = VideoSource(url, open_timeout=5, read_timeout=TIMEOUT)
        start = time.monotonic()
        with source:
            count = len(list(source))
        assert time.monotonic() - start < 2 * TIMEOUT + MARGIN
    assert 40 <= count <= 50
    assert len(source.warnings) == 1
    assert capfd.readouterr().err == ""
