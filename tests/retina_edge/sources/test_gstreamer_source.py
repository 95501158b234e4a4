"""GStreamer sources: real pipelines run by gst-launch-1.0, and the text of the pipelines that OpenCV would run."""

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
from engines.core.frame_pool import FramePool
from retina_edge.environment import checks as diagnosis
from retina_edge.environment.checks import BROKEN, MISSING, OK
from retina_edge.sources import gstreamer_source as gstreamer
from retina_edge.sources.gst_launch import Caps, GstLaunch, PipelineEnd, error_summary, parse_caps
from retina_edge.sources.gstreamer_source import GStreamerSource, opencv_has_gstreamer
from retina_edge.sources.opening import open_sources
from retina_edge.sources.pipeline_text import csi_pipeline, is_live, secrets, shown_pipeline
from retina_edge.sources.video_source import VideoSource
from tests.media import probed_times, write_timed_video, write_video

RED = [0, 0, 255]
# Rounding error of the conversion from RGB to YUV and back, in gray levels.
LEVELS = 2
# A pipeline that waits for packets that never arrive.
SILENT = "udpsrc address=127.0.0.1 port=0 ! rawvideoparse"

needs_gst = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="no gst-launch-1.0: sudo apt-get install gstreamer1.0-tools"
)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: sudo apt-get install ffmpeg")


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use gst-launch-1.0, even if OpenCV was built with GStreamer."""
    monkeypatch.setattr(gstreamer, "opencv_has_gstreamer", lambda: False)


def child_processes() -> set[int]:
    """Return the ids of the child processes of this process, including zombies.

    The lists of children in /proc/self/task are not used: a joined thread may still be listed there, and gone when its
    list is read.
    """
    children = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the process has just ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                children.add(int(path.parent.name))
    return children


def resources() -> set[object]:
    """Return file descriptors, child processes and threads.

    A later set may be smaller, because resources of an earlier test may still be ending. Compare with ``<=``.
    """
    return {*os.listdir("/proc/self/fd"), *child_processes(), *threading.enumerate()}


@needs_gst
@pytest.mark.parametrize("size", [(48, 64), (49, 63), (50, 101), (31, 102)])
@pytest.mark.parametrize("end", ["", " ! appsink", " ! videoconvert ! appsink drop=1 max-buffers=2 ", " !"])
def test_frames_have_the_right_color_size_and_times(size: tuple[int, int], end: str) -> None:
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
def test_a_slow_reader_gets_every_frame_of_a_file(tmp_path: Path) -> None:
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
            # The two JPEG decoders round differently.
            assert np.abs(frame.image.astype(int) - other.image).mean() < 3


@needs_gst
def test_a_live_pipeline_keeps_only_the_newest_frame() -> None:
    source = GStreamerSource("videotestsrc is-live=true ! video/x-raw,width=640,height=480,framerate=100/1")
    assert source.live
    with source:
        frames = iter(source)
        next(frames)
        time.sleep(0.5)
        start = time.monotonic()
        for _ in range(4):
            next(frames)
        # Only a few of the 50 frames of the pause are in the pipe and the queue. If all were kept, the four reads
        # above would not have to wait.
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
    ("pipeline", "message"),
    [
        ("gst:videotestsrc !! fakesrc", "syntax error"),
        ("gst:nosuchelement", 'no element "nosuchelement"'),
        ("gst:videotestsrc nosuch=1", 'no property "nosuch"'),
        ("gst:--version", "syntax error"),
        ("gst:v4l2src device=/dev/video97 ! videoconvert", "Cannot identify device '/dev/video97'. (system error"),
        ("gst:filesrc location=/no/such.avi ! avidemux ! jpegdec", "No such file"),
        ("gst:videotestsrc num-buffers=0", "delivered no frame"),
        ("csi://0?width=640", 'csi://0: delivered no frame: no element "nvarguscamerasrc"'),
    ],
)
def test_a_pipeline_without_frames_is_an_error_with_its_reason(pipeline: str, message: str) -> None:
    before = resources()
    if pipeline.startswith("csi") and Path("/etc/nv_tegra_release").exists():
        pytest.skip("needs a machine that is not a Jetson")
    (source,) = open_sources([pipeline])
    with pytest.raises(SourceError) as caught, source:
        pytest.fail("it opened")
    assert message in str(caught.value)
    assert resources() <= before


@needs_gst
def test_a_silent_pipeline_ends_after_its_timeout() -> None:
    source = GStreamerSource(SILENT, open_timeout=0.5)
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"no frame arrived for 0\.5 s"), source:
        pass
    assert time.monotonic() - start < 2
    slow = GStreamerSource("videotestsrc is-live=true ! video/x-raw,framerate=1/5", read_timeout=0.4)
    with slow:
        assert len(list(slow)) == 1
    (warning,) = slow.warnings
    assert "ended after 1 frame: no frame arrived for 0.4 s" in warning


@needs_gst
@pytest.mark.parametrize("while_opening", [False, True])
def test_another_thread_interrupts_a_read_that_hangs(while_opening: bool) -> None:
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
    source.interrupt()  # has no effect after the end
    assert source.warnings == []


@needs_gst
def test_a_killed_process_ends_the_source_with_a_warning() -> None:
    source = GStreamerSource("videotestsrc is-live=true ! video/x-raw,width=64,height=48")
    before = child_processes()
    with source:
        for frame in source:
            if frame.index == 2:
                (process,) = child_processes() - before
                os.kill(process, signal.SIGKILL)
    (warning,) = source.warnings
    assert "gst-launch-1.0 ended with SIGKILL" in warning
    assert child_processes() == before


@needs_gst
def test_opening_many_times_leaks_no_resources() -> None:
    def once(number: int) -> None:
        with GStreamerSource("videotestsrc is-live=true ! video/x-raw,width=64,height=48") as source:
            frames = iter(source)
            for _ in range(number % 3):
                next(frames)

    once(1)
    before = resources()
    for number in range(20):
        once(number)
    assert resources() <= before


@needs_gst
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a process with its parent")
def test_killing_the_owner_ends_the_pipeline_process() -> None:
    code = (
        "import time\nfrom retina_edge.sources.gstreamer_source import GStreamerSource\n"
        # At one frame per minute, the pipeline would notice a broken pipe too late.
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


def test_without_gstreamer_the_error_names_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceError, match=r"apt-get install gstreamer1\.0-tools.* or an OpenCV built with"):
        GStreamerSource("csi://1").__enter__()
    check = diagnosis.check_gstreamer()
    if "GStreamer:                   YES" not in cv2.getBuildInformation():
        assert (check.state, "gstreamer1.0-tools" in check.fix) == (MISSING, True)


def test_the_doctor_reports_how_pipelines_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "opencv_has_gstreamer", opencv_has_gstreamer)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:    NO\n")
    outputs = {"gst-launch-1.0": "gst-launch-1.0 version 1.20.3\nmore", "gst-inspect-1.0": "No such element"}
    monkeypatch.setattr(diagnosis, "tool_output", lambda tool, _argument: outputs[tool])
    assert diagnosis.check_gstreamer().state == BROKEN
    outputs["gst-inspect-1.0"] = "Factory Details:\n"
    assert diagnosis.check_gstreamer().found == "through gst-launch-1.0 version 1.20.3"
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:    YES (1.20.3)\n")
    assert (diagnosis.check_gstreamer().state, diagnosis.check_gstreamer().found) == (OK, "through OpenCV")
    monkeypatch.setattr(cv2, "__version__", "4.6.0")  # refuses time limits, so gst-launch runs the pipelines
    assert diagnosis.check_gstreamer().found == "through gst-launch-1.0 version 1.20.3"


def test_a_csi_camera_is_opened_by_the_pipeline_of_a_jetson() -> None:
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
def test_an_invalid_csi_address_is_an_error(address: str) -> None:
    with pytest.raises(SourceError, match=r"expected csi://NUMBER\?width=1280"):
        open_sources([address])


@pytest.mark.parametrize("text", ["gst:", "gst:appsink", "gst: ! ", "videotestsrc ! appsink ! fakesink", "appsink ! x"])
def test_a_pipeline_that_cannot_deliver_frames_is_an_error(text: str) -> None:
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
def test_only_pipelines_that_read_files_or_test_patterns_are_not_live(pipeline: str, live: bool) -> None:
    assert is_live(pipeline) is live
    assert GStreamerSource(pipeline).live is live


@needs_gst
def test_messages_contain_no_passwords() -> None:
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


def test_names_that_mean_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = open_sources(["v4l2src device=/dev/video0 ! videoconvert"])
    assert isinstance(source, GStreamerSource)
    assert source.name == "gst:v4l2src device=/dev/video0 ! videoconvert"
    write_video(tmp_path / "v.mp4", count=2).rename("a ! b.mp4")
    assert isinstance(open_sources(["a ! b.mp4"])[0], VideoSource)
    with pytest.raises(SourceError, match=r"csi://0 for a camera of a Jetson, or gst:\.\.\. for a GStreamer"):
        open_sources(["nothing"])


def test_errors_are_extracted_from_the_output_of_gst_launch() -> None:
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


def test_caps_are_parsed_or_refused() -> None:
    text = "video/x-raw, format=(string)BGR, width=(int)64, height=(int)48, framerate=(fraction)30000/1001"
    assert parse_caps(text) == Caps((48, 64), 30000 / 1001)
    assert parse_caps(text.replace("30000/1001", "0/1")).fps is None
    for wrong in ("", "audio/x-raw", text.replace("BGR", "RGB"), text.replace("64", "0")):
        with pytest.raises(PipelineEnd, match="expected"):
            parse_caps(wrong)


@needs_gst
def test_data_outside_the_protocol_ends_the_read() -> None:
    before = resources()
    for text in ("garbage" * 100, "\x01" * 100):
        run = GstLaunch(["videotestsrc"])
        os.write(run._write_end, text.encode())
        with pytest.raises(PipelineEnd, match="not the GStreamer Data Protocol"):
            run.read(1, FramePool())
        run.close()
        run.close()
        run.interrupt()
    assert resources() <= before


class FakeCapture:
    """A stand-in for the capture of an OpenCV with GStreamer: one frame, then a read that times out or ends.

    The wheel of OpenCV is built without GStreamer.
    """

    times_out = False
    opened = ("", 0)

    def __init__(self, text: str, backend: int, parameters: list[int]) -> None:
        FakeCapture.opened = (text, backend)
        self.frames_left = 1
        self.timeout = dict(zip(parameters[::2], parameters[1::2], strict=True))[cv2.CAP_PROP_READ_TIMEOUT_MSEC] / 1000

    def isOpened(self) -> bool:
        return "broken" not in FakeCapture.opened[0]

    def get(self, item: int) -> float:
        return {cv2.CAP_PROP_FRAME_HEIGHT: 4.0, cv2.CAP_PROP_FRAME_WIDTH: 6.0, cv2.CAP_PROP_FPS: 25.0}.get(item, 0.0)

    def grab(self) -> bool:
        self.frames_left -= 1
        if self.frames_left < 0:
            time.sleep(self.timeout if FakeCapture.times_out else 0)
        return self.frames_left >= 0

    def retrieve(self, image: np.ndarray) -> tuple[bool, np.ndarray]:
        assert image.shape == (4, 6, 3)
        return True, image

    def release(self) -> None:
        pass


def test_an_opencv_with_gstreamer_runs_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "opencv_has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    source = GStreamerSource("v4l2src ! appsink", read_timeout=0.5)
    with source:
        assert source.info.size == (4, 6)
        assert len(list(source)) == 1
    assert FakeCapture.opened == (
        "v4l2src ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false",
        cv2.CAP_GSTREAMER,
    )
    assert "ended after 1 frame: the pipeline ended" in source.warnings[0]
    monkeypatch.setattr(FakeCapture, "times_out", True)
    with source:
        assert len(list(source)) == 1
    assert "no frame arrived for 0.5 s" in source.warnings[1]
    with pytest.raises(SourceError, match="OpenCV cannot run the pipeline"), GStreamerSource("gst:broken"):
        pass
    with GStreamerSource("gst:filesrc location=a.avi"):
        assert "drop=false" in FakeCapture.opened[0]


@needs_gst
@needs_ffmpeg
def test_a_file_has_the_times_that_ffprobe_reports(tmp_path: Path) -> None:
    path = write_timed_video(tmp_path / "a.mkv", [0, 0.04, 0.3, 0.31, 0.5], "-c:v", "mjpeg", "-output_ts_offset", "3")
    with GStreamerSource(f"filesrc location={path} ! matroskademux ! jpegdec ! videoconvert") as source:
        assert not source.live
        assert [frame.timestamp for frame in source] == pytest.approx(probed_times(path), abs=1e-3)
    assert source.info.fps is None or source.info.fps <= 240
