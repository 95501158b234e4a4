"""Network streams: a real RTSP server, HTTP and TCP servers of the tests, and their failures."""

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

needs_server = pytest.mark.skipif(bool(why_not()), reason=why_not() or "an RTSP server is available")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: sudo apt-get install ffmpeg")

SIZES = {"/small": (240, 320), "/large": (360, 640)}
# OpenCV's own timeouts are 30 s, too long for tests. The margin allows for a busy machine.
TIMEOUT = 1.5
MARGIN = 1.5
# Only a source that hangs takes this long.
LONG = 10.0
# Error of lossy codecs, in gray levels.
CODEC_LEVELS = 12


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flights")
    return {mount: write_flight(FOREST, folder / f"{mount[1:]}.mp4", size=size) for mount, size in SIZES.items()}


@pytest.fixture(scope="module")
def prepared(flights: dict[str, Path]) -> Iterator[RtspServer]:
    """An RTSP server that is not yet started, with its videos encoded."""
    server = RtspServer(flights)
    yield server
    server.close()


@pytest.fixture
def server(prepared: RtspServer) -> Iterator[RtspServer]:
    """The RTSP server, started in a new process on its fixed port."""
    prepared.start()
    yield prepared
    prepared.kill()


def read(source: Source, count: int) -> list[tuple[int, ...]]:
    """Return the shapes of the next ``count`` frames, or of fewer if the source ends."""
    return [frame.image.shape for _, frame in zip(range(count), source, strict=False)]


@needs_server
def test_every_mount_delivers_its_video_in_a_loop(server: RtspServer) -> None:
    for mount, size in SIZES.items():
        (source,) = open_sources([server.url(mount)])
        assert isinstance(source, VideoSource)
        assert source.live
        with source:
            assert (source.info.size, source.info.frames) == (size, None)
            assert source.info.fps == pytest.approx(25, abs=0.5)
            # The video is shorter than 60 frames, so it has started over.
            assert read(source, 60) == [(*size, 3)] * 60
        assert source.warnings == source.errors == []


@needs_server
def test_received_frames_match_the_video_in_order(server: RtspServer, flights: dict[str, Path]) -> None:
    with VideoSource(flights["/small"]) as file:
        sent = np.array([frame.image for frame in file], int)
    with VideoSource(server.url("/small")) as source:
        frames = iter(source)
        numbers = [int(np.abs(sent - next(frames).image).mean(axis=(1, 2, 3)).argmin()) for _ in range(12)]
        error = np.abs(sent - next(frames).image).mean(axis=(1, 2, 3)).min()
    assert error < CODEC_LEVELS
    # Consecutive frames, from any position in the loop.
    assert [(number - numbers[0]) % len(sent) for number in numbers] == list(range(12))


@needs_server
def test_a_killed_server_ends_the_source_and_can_be_reopened_when_it_is_back(server: RtspServer) -> None:
    source = VideoSource(server.url("/small"), read_timeout=TIMEOUT)
    with source:
        for frame in source:
            if frame.index == 10:
                server.kill()
                killed = time.monotonic()
        assert time.monotonic() - killed < TIMEOUT + MARGIN
    (warning,) = source.warnings
    assert "ended after" in warning
    with pytest.raises(SourceError, match=r"does not answer \(Connection refused\)"), VideoSource(server.url("/small")):
        pass
    server.start()
    returned = time.monotonic()
    with VideoSource(server.url("/small")) as reopened:
        assert len(read(reopened, 3)) == 3
    assert time.monotonic() - returned < 2


@needs_server
def test_a_server_that_hangs_is_detected_in_time(server: RtspServer, capfd: pytest.CaptureFixture[str]) -> None:
    source = VideoSource(server.url("/small"), read_timeout=TIMEOUT)
    with source:
        for frame in source:
            if frame.index == 40:
                server.send(signal.SIGSTOP)
                stopped = time.monotonic()
        assert TIMEOUT <= time.monotonic() - stopped < TIMEOUT + MARGIN
    (warning,) = source.warnings
    assert "nothing arrived for 1.5 s" in warning
    start = time.monotonic()
    with pytest.raises(SourceError), VideoSource(server.url("/small"), open_timeout=TIMEOUT):
        pass
    assert time.monotonic() - start < TIMEOUT + MARGIN
    server.send(signal.SIGCONT)
    assert capfd.readouterr().err == ""


@needs_server
def test_interrupting_ends_the_iteration_without_a_warning(server: RtspServer) -> None:
    source = VideoSource(server.url("/small"), read_timeout=TIMEOUT)
    with source:
        frames = iter(source)
        next(frames)
        source.interrupt()
        assert list(frames) == []
    assert source.warnings == []


@needs_server
def test_only_the_right_password_opens_a_stream_and_no_password_is_shown(
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
def test_reconnecting_many_times_leaks_no_resources(server: RtspServer) -> None:
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
def test_the_ffmpeg_options_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch, flights: dict[str, Path]) -> None:
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
    """Run a TCP server that calls ``talk`` for each client and then closes the connection; yield its address."""
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
    """Return the videos, one after another, as one MPEG transport stream."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i"]
    parts = [
        subprocess.run([*command, str(path), "-c", "copy", "-f", "mpegts", "-"], check=True, capture_output=True).stdout
        for path in videos
    ]
    return b"".join(parts)


@needs_ffmpeg
def test_the_end_of_a_transport_stream_is_a_warning(flights: dict[str, Path]) -> None:
    data = mpegts(flights["/small"])
    source: VideoSource
    with serving(lambda connection: connection.sendall(data)) as url:
        source = VideoSource(url)
        with source:
            assert (source.live, source.info.size) == (True, SIZES["/small"])
            assert len(list(source)) == 50
    (warning,) = source.warnings
    assert "ended after 50 frames: the stream ended" in warning


@needs_ffmpeg
def test_a_stream_that_changes_its_resolution_is_scaled_to_the_first(flights: dict[str, Path]) -> None:
    """The docstring of VideoSource describes this behavior of OpenCV; if it changes, the docstring must change too."""
    data = mpegts(flights["/small"], flights["/large"])
    with serving(lambda connection: connection.sendall(data)) as url, VideoSource(url) as source:
        assert read(source, 100) == [(*SIZES["/small"], 3)] * 100


@needs_ffmpeg
def test_an_rtmp_stream_delivers_frames(flights: dict[str, Path]) -> None:
    """FFmpeg is the server; the test connects once FFmpeg listens."""
    url = f"rtmp://{HOST}:{free_port()}/live/flight"
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "12", "-f", "flv"]
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(flights["/small"])]
    shapes: list[tuple[int, ...]] = []
    with subprocess.Popen([*command, *encode, "-listen", "1", url]) as process:
        try:

            def frames_arrived() -> bool:
                with contextlib.suppress(SourceError), VideoSource(url) as source:
                    assert source.live
                    shapes[:] = read(source, 30)
                return bool(shapes)

            wait_for(frames_arrived, 30)
            assert shapes == [(*SIZES["/small"], 3)] * 30
        finally:
            process.kill()


def test_an_mjpeg_stream_over_http_delivers_frames() -> None:
    image = np.full((48, 64, 3), (20, 120, 220), np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
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
    assert all(np.abs(frame.image.astype(int) - image).max() <= CODEC_LEVELS for frame in frames)
    assert "s3same" not in "".join([source.name, *source.warnings])


@contextlib.contextmanager
def opening(scheme: str, *, count: int) -> Iterator[list[tuple[VideoSource, threading.Thread]]]:
    """Yield sources, each with a thread that is opening it, of a camera that accepts connections but stays silent."""
    accepted, ended = threading.Event(), threading.Event()

    def hang(_connection: socket.socket) -> None:
        accepted.set()
        ended.wait()

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
            ended.set()
            for thread in threads:
                thread.join()


def test_an_rtsp_camera_that_hangs_does_not_delay_other_sources_or_videos(tmp_path: Path) -> None:
    with opening("rtsp", count=1) as [(camera, thread)]:
        assert count_frames(write_video(tmp_path / "v.mp4", count=5))[0] == 5
        assert thread.is_alive()
        camera.interrupt()
        thread.join(LONG / 2)
        assert not thread.is_alive()


def test_a_source_that_waits_for_a_hanging_camera_can_be_interrupted() -> None:
    """OpenCV opens only one address at once: the first source is inside OpenCV, the second waits for the lock."""
    with opening("http", count=2) as [(_, first), (source, second)]:
        source.interrupt()
        second.join(LONG / 2)
        assert not second.is_alive()
        assert first.is_alive()


@pytest.mark.parametrize(
    ("port", "message"),
    [(None, r"the server does not answer \(Connection refused\)"), (99999, "OpenCV cannot open it")],
)
def test_a_missing_rtsp_server_is_an_error(port: int | None, message: str) -> None:
    address = f"rtsp://{HOST}:{port or free_port()}/x"
    with pytest.raises(SourceError, match=f"{message}; check the address"), VideoSource(address):
        pass


def trickle(connection: socket.socket) -> None:
    """Send a zero byte every 20 ms, for longer than any timeout of the tests."""
    for _ in range(300):
        connection.sendall(b"\x00")
        time.sleep(0.02)


def flood(connection: socket.socket) -> None:
    """Send noise as fast as the client receives it."""
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
