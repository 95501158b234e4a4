"""GStreamer pipelines: real ones, run by gst-launch-1.0; what OpenCV would run, as text."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.core.errors import SourceError
from retina_edge.environment import checks as diagnosis
from retina_edge.environment.checks import BROKEN, MISSING, OK
from retina_edge.sources import gstreamer_source as gstreamer
from retina_edge.sources.gst_launch import Caps, GstLaunch, PipelineEnd, error_summary, parse_caps
from retina_edge.sources.gstreamer_source import GStreamerSource, csi_pipeline, is_live, secrets, shown_pipeline
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource
from tests.media import write_video

RED = [0, 0, 255]
# Of the conversion from RGB to YUV and back.
LEVELS = 2
# Waits for packets that nobody sends.
SILENT = "udpsrc address=127.0.0.1 port=0 ! rawvideoparse"

needs_gst = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="no gst-launch-1.0: sudo apt-get install gstreamer1.0-tools"
)


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through gst-launch-1.0, also where OpenCV could."""
    monkeypatch.setattr(gstreamer, "opencv_has_gstreamer", lambda: False)


def processes() -> set[int]:
    """Children of this process, zombies among them.

    Not by the lists of its threads: one that was joined may still be among them, and gone when its list is read.
    """
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # another's, which has just ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(path.parent.name))
    return found


def held() -> set[object]:
    """Descriptors, processes and threads; a later set may lack what an earlier test was still ending."""
    return {*os.listdir("/proc/self/fd"), *processes(), *threading.enumerate()}


@needs_gst
@pytest.mark.parametrize("size", [(48, 64), (49, 63), (50, 101), (31, 102)])
@pytest.mark.parametrize("end", ["", " ! appsink", " ! videoconvert ! appsink drop=1 max-buffers=2 ", " !"])
def test_frames_have_their_color_size_and_times(size: tuple[int, int], end: str) -> None:
    caps = f"video/x-raw,format=RGB,width={size[1]},height={size[0]},framerate=25/1"
    (source,) = open_sources([f"gst:videotestsrc num-buffers=3 pattern=red ! {caps}{end}"])
    assert not source.live
    with source:
        assert (source.info.size, source.info.fps, source.info.frames) == (size, 25.0, None)
        frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.04, 0.08])
    for frame in frames:
        assert frame.image.shape == (*size, 3)
        assert frame.image.flags.c_contiguous
        assert frame.image.flags.writeable
        assert np.abs(frame.image.astype(int) - RED).max() <= LEVELS
    assert source.warnings == source.errors == []


@needs_gst
def test_a_file_loses_no_frame_however_slow_the_reader(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a video.avi", count=30, codec="MJPG")
    source = GStreamerSource(f'filesrc location="{video}" ! avidemux ! jpegdec')
    assert not source.live
    with source:
        read = []
        for frame in source:
            time.sleep(0.005)
            read.append(frame)
    with VideoSource(video) as reference:
        for frame, other in zip(read, reference, strict=True):
            # Two decoders of JPEG round differently.
            assert np.abs(frame.image.astype(int) - other.image).mean() < 3


@needs_gst
def test_the_newest_frame_of_a_live_pipeline_waits() -> None:
    source = GStreamerSource("videotestsrc is-live=true ! video/x-raw,width=640,height=480,framerate=100/1")
    assert source.live
    with source:
        frames = iter(source)
        next(frames)
        time.sleep(0.5)
        start = time.monotonic()
        for _ in range(4):
            next(frames)
        # Of the 50 frames of the pause a few are in the pipe and the queue; were all kept, none would be waited for.
        assert time.monotonic() - start > 0.005
        late = next(frames)
    assert late.timestamp is not None
    assert late.timestamp > 0.5


@needs_gst
def test_a_change_of_resolution_is_delivered(tmp_path: Path) -> None:
    for name, size in (("0.jpg", (48, 64)), ("1.jpg", (90, 121))):
        assert cv2.imwrite(str(tmp_path / name), np.full((*size, 3), 77, np.uint8))
    caps = "image/jpeg,framerate=25/1"
    (source,) = open_sources([f"multifilesrc location={tmp_path}/%d.jpg start-index=0 loop=true caps={caps} ! jpegdec"])
    with source:
        assert source.info.size == (48, 64)
        frames = [frame for frame, _ in zip(source, range(4), strict=False)]
    assert [frame.image.shape for frame in frames] == [(48, 64, 3), (90, 121, 3)] * 2
    assert all(abs(int(frame.image.mean()) - 77) <= LEVELS for frame in frames)


@needs_gst
@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ("gst:videotestsrc !! fakesrc", "syntax error"),
        ("gst:nosuchelement", 'no element "nosuchelement"'),
        ("gst:videotestsrc nosuch=1", 'no property "nosuch"'),
        ("gst:--version", "syntax error"),
        ("gst:v4l2src device=/dev/video97 ! videoconvert", "Cannot identify device '/dev/video97'. (system error"),
        ("gst:filesrc location=/no/such.avi ! avidemux ! jpegdec", "No such file"),
        ("gst:videotestsrc num-buffers=0", "gave no frame"),
        ("csi://0?width=640", 'csi://0: gave no frame: no element "nvarguscamerasrc"'),
    ],
)
def test_what_gives_no_frame_is_an_error_with_its_last_words(pipeline: str, says: str) -> None:
    before = held()
    if pipeline.startswith("csi") and Path("/etc/nv_tegra_release").exists():
        pytest.skip("this is a Jetson")
    (source,) = open_sources([pipeline])
    with pytest.raises(SourceError) as caught, source:
        pytest.fail("it opened")
    assert says in str(caught.value)
    assert held() <= before


@needs_gst
def test_a_pipeline_that_gives_nothing_is_given_up_in_time() -> None:
    source = GStreamerSource(SILENT, open_timeout=0.5)
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"no frame came for 0\.5 s"), source:
        pass
    assert time.monotonic() - start < 2
    quiet = GStreamerSource("videotestsrc is-live=true ! video/x-raw,framerate=1/5", read_timeout=0.4)
    with quiet:
        assert len(list(quiet)) == 1
    (warning,) = quiet.warnings
    assert "gave no frame after 1: no frame came for 0.4 s" in warning


@needs_gst
@pytest.mark.parametrize("while_opening", [False, True])
def test_a_read_that_hangs_is_ended_from_another_thread(while_opening: bool) -> None:
    slow = "videotestsrc is-live=true ! video/x-raw,framerate=1/60"
    source = GStreamerSource(SILENT if while_opening else slow, open_timeout=30, read_timeout=30)
    interrupted: list[float] = []

    def interrupt() -> None:
        interrupted.append(time.monotonic())
        source.interrupt()

    timer = threading.Timer(0.6, interrupt)
    timer.start()
    if while_opening:
        with pytest.raises(SourceError, match="interrupted"), source:
            pass
    else:
        with source:
            assert len(list(source)) == 1
    assert time.monotonic() - interrupted[0] < 1
    timer.join()
    source.interrupt()  # after the end it does nothing
    assert source.warnings == []


@needs_gst
def test_a_pipeline_that_is_killed_is_a_warning() -> None:
    source = GStreamerSource("videotestsrc is-live=true ! video/x-raw,width=64,height=48")
    before = processes()
    with source:
        for frame in source:
            if frame.index == 2:
                (process,) = processes() - before
                os.kill(process, signal.SIGKILL)
    (warning,) = source.warnings
    assert "gst-launch-1.0 ended by SIGKILL" in warning
    assert processes() == before


@needs_gst
def test_nothing_is_left_after_many_opens() -> None:
    def once(number: int) -> None:
        with GStreamerSource("videotestsrc is-live=true ! video/x-raw,width=64,height=48") as source:
            frames = iter(source)
            for _ in range(number % 3):
                next(frames)

    once(1)
    before = held()
    for number in range(20):
        once(number)
    assert held() <= before


@needs_gst
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's tie is Linux's")
def test_the_process_ends_with_a_process_that_is_killed() -> None:
    code = (
        "import time\nfrom retina_edge.sources.gstreamer_source import GStreamerSource\n"
        # One frame a minute: it would notice a broken pipe late.
        "with GStreamerSource('videotestsrc is-live=true ! video/x-raw,framerate=1/60') as source:\n"
        "    print(source._reader._run._process.pid, flush=True)\n    time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        pid = int(owner.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        owner.kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.02)
                continue
        return
    pytest.fail(f"process {pid} lives on")


def test_without_gstreamer_both_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match=r"apt-get install gstreamer1\.0-tools.* or an OpenCV built with"):
        GStreamerSource("csi://1").__enter__()
    check = diagnosis.check_gstreamer()
    if "GStreamer:                   YES" not in cv2.getBuildInformation():
        assert (check.state, "gstreamer1.0-tools" in check.fix) == (MISSING, True)


def test_the_doctor_says_which_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:    NO\n")
    outputs = {"gst-launch-1.0": "gst-launch-1.0 version 1.20.3\nmore", "gst-inspect-1.0": "No such element"}
    monkeypatch.setattr(diagnosis, "tool_output", lambda tool, _argument: outputs[tool])
    assert diagnosis.check_gstreamer().state == BROKEN
    outputs["gst-inspect-1.0"] = "Factory Details:\n"
    assert diagnosis.check_gstreamer().found == "through gst-launch-1.0 version 1.20.3"
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:    YES (1.20.3)\n")
    assert (diagnosis.check_gstreamer().state, diagnosis.check_gstreamer().found) == (OK, "through OpenCV")


def test_a_csi_camera_is_jetsons_pipeline() -> None:
    pipeline, camera = csi_pipeline("csi://1?width=1920&height=1080&fps=60&flip=2")
    assert camera == 1
    assert pipeline == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1,format=NV12 "
        "! nvvidconv flip-method=2 ! video/x-raw,format=BGRx"
    )
    assert "width=1280,height=720,framerate=30/1" in csi_pipeline("csi://0")[0]
    (source,) = open_sources(["csi://0?fps=60"])
    assert (source.name, source.output_names, source.live) == ("csi://0", ("csi0.mp4",), True)


@pytest.mark.parametrize(
    "address", ["csi://", "csi://x", "csi://0/1", "csi://0?fps=0", "csi://0?flip=8", "csi://0?a=1"]
)
def test_a_wrong_csi_address_is_an_error(address: str) -> None:
    with pytest.raises(SourceError, match=r"expected csi://NUMBER\?width=1280"):
        open_sources([address])


@pytest.mark.parametrize("text", ["gst:", "gst:appsink", "gst: ! ", "videotestsrc ! appsink ! fakesink", "appsink ! x"])
def test_a_pipeline_from_which_no_frame_would_come_is_an_error(text: str) -> None:
    with pytest.raises(SourceError, match="at most one appsink, at its end"):
        open_sources([text])


@pytest.mark.parametrize(
    ("pipeline", "live"),
    [
        ("v4l2src device=/dev/video0 ! videoconvert", True),
        ("rtspsrc location=rtsp://h/x ! decodebin", True),
        ("uridecodebin uri=rtsp://h/x", True),
        ("uridecodebin uri=file:///a.mp4", False),
        ("filesrc location=a.mp4 ! decodebin", False),
        ("videotestsrc ! videoconvert", False),
        ("videotestsrc is-live=TRUE ! videoconvert", True),
    ],
)
def test_only_what_reads_files_is_not_live(pipeline: str, live: bool) -> None:
    assert is_live(pipeline) is live
    assert GStreamerSource(pipeline).live is live


@needs_gst
def test_passwords_are_in_no_message() -> None:
    pipeline = (
        "rtspsrc location=rtsp://me:h1dden@127.0.0.1:9/live?token=h1dden user-pw = 'h1 h1dden' proxy-pw=\"h1dden x\" "
        "! rtph264depay ! video/x-raw, width=64"
    )
    shown = "rtspsrc location=rtsp://***@127.0.0.1:9/live?*** ! rtph264depay ! video/x-raw,"
    assert shown_pipeline(pipeline) == shown
    assert secrets(pipeline) == ["h1 h1dden", "me:h1dden", "h1dden x", "h1dden"]
    (source,) = open_sources([f"gst:{pipeline}"])
    with pytest.raises(SourceError) as caught, source:
        pass
    assert caught.value.__suppress_context__
    assert "h1" not in str(caught.value) + source.name
    assert "127.0.0.1:9" in str(caught.value)


def test_names_that_are_meant_for_gstreamer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = open_sources(["v4l2src device=/dev/video0 ! videoconvert"])
    assert isinstance(source, GStreamerSource)
    assert source.name == "gst:v4l2src device=/dev/video0 ! videoconvert"
    write_video(tmp_path / "v.mp4", count=2).rename("a ! b.mp4")
    assert isinstance(open_sources(["a ! b.mp4"])[0], VideoSource)
    with pytest.raises(SourceError, match=r"csi://0, for a GStreamer pipeline gst:"):
        open_sources(["nothing"])


def test_gst_launchs_words() -> None:
    lines = [
        "ERROR: from element /GstPipeline:pipeline0/GstRTSPSrc:rtspsrc0: Could not open resource.",
        "Additional debug info:",
        "../gst/rtsp/gstrtspsrc.c(8331): gst_rtspsrc_retrieve_sdp (): /GstPipeline:pipeline0/GstRTSPSrc:rtspsrc0:",
        "Failed to connect.",
        "ERROR: pipeline doesn't want to preroll.",
    ]
    assert error_summary(lines) == "rtspsrc0: Could not open resource. (Failed to connect.)"
    assert error_summary(["WARNING: erroneous pipeline: syntax error"]) == "syntax error"
    assert error_summary(["one", "two", "", "three"]) == "two; three"
    assert error_summary([]) == ""


def test_caps() -> None:
    text = "video/x-raw, format=(string)BGR, width=(int)64, height=(int)48, framerate=(fraction)30000/1001"
    assert parse_caps(text) == Caps((48, 64), 30000 / 1001)
    assert parse_caps(text.replace("30000/1001", "0/1")).fps is None
    for wrong in ("", "audio/x-raw", text.replace("BGR", "RGB"), text.replace("64", "0")):
        with pytest.raises(PipelineEnd, match="expected"):
            parse_caps(wrong)


@needs_gst
def test_what_is_not_the_protocol_ends_the_read() -> None:
    before = held()
    for text in ("garbage" * 100, "\x01" * 100):
        run = GstLaunch(["videotestsrc"])
        os.write(run._write_end, text.encode())
        with pytest.raises(PipelineEnd, match="not the GStreamer Data Protocol"):
            run.read(1)
        run.close()
        run.close()
        run.interrupt()
    assert held() <= before


class FakeCapture:
    """Stands for an OpenCV with GStreamer, which the wheel is not: one frame, then a wait in vain or an end."""

    waits = False
    made = ("", 0)

    def __init__(self, text: str, backend: int, parameters: list[int]) -> None:
        FakeCapture.made = (text, backend)
        self.left = 1
        self.wait = dict(zip(parameters[::2], parameters[1::2], strict=True))[cv2.CAP_PROP_READ_TIMEOUT_MSEC] / 1000

    def isOpened(self) -> bool:
        return "broken" not in FakeCapture.made[0]

    def get(self, item: int) -> float:
        return {cv2.CAP_PROP_FRAME_HEIGHT: 4.0, cv2.CAP_PROP_FRAME_WIDTH: 6.0, cv2.CAP_PROP_FPS: 25.0}.get(item, 0.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        if self.left >= 0:
            return True, np.zeros((4, 6, 3), np.uint8)
        time.sleep(self.wait if FakeCapture.waits else 0)
        return False, None

    def release(self) -> None:
        pass


def test_an_opencv_with_gstreamer_gets_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "opencv_has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    source = GStreamerSource("v4l2src ! appsink", read_timeout=0.5)
    with source:
        assert source.info.size == (4, 6)
        assert len(list(source)) == 1
    assert FakeCapture.made == (
        "v4l2src ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false",
        cv2.CAP_GSTREAMER,
    )
    assert "gave no frame after 1: it ended" in source.warnings[0]
    monkeypatch.setattr(FakeCapture, "waits", True)
    with source:
        assert len(list(source)) == 1
    assert "no frame came for 0.5 s" in source.warnings[1]
    with pytest.raises(SourceError, match="OpenCV cannot run it"), GStreamerSource("gst:broken"):
        pass
    with GStreamerSource("gst:filesrc location=a.avi"):
        assert "drop=false" in FakeCapture.made[0]
