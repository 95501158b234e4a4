"""The times of frames in video files, compared with those of ffprobe, and never those of the clock."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_edge.sources.video_source import VideoSource
from tests.media import probed, probed_times, write_timed_video, write_video

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: sudo apt-get install ffmpeg")

MILLISECOND = 1e-3
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-b_strategy", "0", "-bf")
HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1")
# Constant rate, then a pause, then a higher rate.
TIMES = [0.0, 0.04, 0.08, 0.12, 0.16, 0.5, 0.52, 0.54, 0.56, 0.58, 0.6, 0.9]
FILES = {
    "h264.mp4": (*H264, "2"),
    "h264.mov": (*H264, "2"),
    "h264.mkv": (*H264, "2"),
    "h264.ts": (*H264, "2"),
    "h264.flv": (*H264, "2"),
    "h264.avi": (*H264, "0"),
    "fragments.mp4": (*H264, "2", "-movflags", "frag_keyframe+empty_moov"),
    "late.mkv": (*H264, "2", "-output_ts_offset", "100"),
    "late.ts": (*H264, "0", "-output_ts_offset", "100"),
    "late.mp4": (*H264, "2", "-output_ts_offset", "7"),
    "hevc.mp4": HEVC,
    "mpeg4.mp4": ("-c:v", "mpeg4", "-bf", "2"),
    "mpeg4.avi": ("-c:v", "mpeg4"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "vp8.webm": ("-c:v", "libvpx"),
    "live.webm": ("-c:v", "libvpx", "-live", "1", "-f", "webm"),
    "wmv.wmv": ("-c:v", "wmv2"),
}
# Streams without times: FFmpeg and OpenCV assume 25 frames per second.
BARE = {
    "bare.h264": (*H264, "2"),
    "bare.hevc": HEVC,
    "bare.mjpeg": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
}


def times_of(source: VideoSource) -> list[float]:
    with source:
        assert not source.live
        times = [frame.timestamp for frame in source if frame.timestamp is not None]
        assert not source.live
    return times


@pytest.mark.parametrize("name", FILES)
def test_times_are_those_of_ffprobe(tmp_path: Path, name: str) -> None:
    path = write_timed_video(tmp_path / name, TIMES, *FILES[name])
    source = VideoSource(path)
    times = times_of(source)
    assert times == pytest.approx(probed_times(path), abs=MILLISECOND)
    assert times == pytest.approx(TIMES, abs=2 * MILLISECOND)
    # Nothing is missing, whatever the header says or lacks.
    assert source.warnings == []
    assert source.info.duration == pytest.approx(1.2, abs=0.31)  # containers differ in the length of the last frame
    assert source.info.fps is not None
    assert 5 < source.info.fps <= 60


def test_a_frame_without_a_time_comes_an_interval_after_the_frame_before(tmp_path: Path) -> None:
    """The last frame of an AVI with B frames has no time."""
    path = write_timed_video(
        tmp_path / "a.avi", [index / 25 for index in range(9)], "-r", "25", "-c:v", "mpeg4", "-bf", "2"
    )
    assert times_of(VideoSource(path)) == pytest.approx([index / 25 for index in range(9)], abs=MILLISECOND)


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("fps", [None, 12.5])
def test_a_bare_stream_has_the_nominal_rate(tmp_path: Path, name: str, fps: float | None) -> None:
    path = write_timed_video(tmp_path / name, [index / 25 for index in range(9)], *BARE[name])
    source = VideoSource(path, fps=fps)
    assert times_of(source) == pytest.approx([index / (fps or 25) for index in range(9)])
    assert source.info.duration == pytest.approx(9 / (fps or 25))
    assert source.warnings == []


def test_a_given_rate_replaces_the_times_of_the_file(tmp_path: Path) -> None:
    path = write_timed_video(tmp_path / "a.mkv", TIMES, *FILES["h264.mkv"])
    source = VideoSource(path, fps=2)
    assert times_of(source) == [index / 2 for index in range(12)]
    assert (source.info.fps, source.info.duration) == (2, 6.0)


def test_times_go_on_where_recordings_were_joined(tmp_path: Path) -> None:
    first = write_timed_video(tmp_path / "a.ts", [index / 10 for index in range(20)], *FILES["h264.ts"])
    (tmp_path / "joined.ts").write_bytes(2 * first.read_bytes())
    source = VideoSource(tmp_path / "joined.ts")
    assert times_of(source) == pytest.approx([index / 10 for index in range(40)], abs=MILLISECOND)


@pytest.mark.parametrize(("suffix", "options"), [("mp4", ("-movflags", "faststart")), ("mkv", ())])
def test_a_truncated_file_is_a_warning(tmp_path: Path, suffix: str, options: tuple[str, ...]) -> None:
    whole = write_timed_video(
        tmp_path / f"whole.{suffix}", [index / 25 for index in range(24)], "-c:v", "mjpeg", *options
    )
    cut = whole.with_stem("cut")
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    for path, warnings in ((whole, 0), (cut, 1)):
        source = VideoSource(path)
        read = len(times_of(source))
        assert len(source.warnings) == warnings
        # The end that a truncated file declares is not shown.
        assert source.info.duration == pytest.approx(read / 25)
    assert 0 < read < 12
    assert f"declares 24 frames, {read} could be read; the file is truncated" in source.warnings[0]


@pytest.mark.parametrize("options", [(), ("-live", "1")])
def test_a_video_without_a_rate_is_measured(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Chrome's MediaRecorder declares neither rate nor duration, and OpenCV then often reports 1000 frames a second."""
    times = [0.0, 0.04, 0.069, 0.109, 0.138, 0.167, 0.207, 0.236, 0.265, 0.305, 0.334, 0.363, 0.403, 0.432, 0.472]
    path = write_timed_video(tmp_path / "a.webm", times, "-c:v", "libvpx", *options)
    content = path.read_bytes()
    rate = content.index(b"\x23\xe3\x83\x84")  # the element DefaultDuration with 4 bytes
    path.write_bytes(content[:rate] + b"\xec\x86" + bytes(6) + content[rate + 8 :])  # a Void of the same length
    # FFmpeg reports its clock, or now and then its own estimate of the rate.
    reported = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)
    assert reported == 1000 or 25 < reported < 35
    source = VideoSource(path)
    assert times_of(source) == pytest.approx(probed_times(path), abs=MILLISECOND)
    assert source.info.fps == pytest.approx(14 / 0.472 if reported == 1000 else reported, abs=0.01)
    assert source.info.duration == pytest.approx(0.5, abs=0.02)
    assert source.warnings == []


@settings(max_examples=8, deadline=None, database=None, derandomize=True)
@given(
    steps=st.lists(st.integers(1, 3000), min_size=1, max_size=15),
    start=st.integers(0, 5000),
    suffix=st.sampled_from(["mp4", "mkv", "webm", "mov"]),
    declared=st.booleans(),
    reordered=st.booleans(),
)
def test_any_times_are_those_of_ffprobe(
    steps: list[int], start: int, suffix: str, declared: bool, reordered: bool
) -> None:
    times = [sum(steps[:count]) / 1000 for count in range(len(steps) + 1)]
    options = ["-c:v", "libvpx"] if suffix == "webm" else [*H264, "2" if reordered else "0"]
    options += ["-output_ts_offset", f"{start / 1000:.3f}"]
    if not declared:
        options += ["-movflags", "frag_keyframe+empty_moov"] if suffix in ("mp4", "mov") else ["-live", "1"]
    with TemporaryDirectory() as folder:
        path = write_timed_video(Path(folder, f"a.{suffix}"), times, *options)
        source = VideoSource(path)
        read = times_of(source)
        expected = probed_times(path)
        assert read == pytest.approx(expected, abs=MILLISECOND)
        assert read == pytest.approx(times, abs=2 * MILLISECOND)
        assert source.warnings == []
        assert source.info.duration is not None
        assert source.info.duration > read[-1]


def test_the_rate_is_that_of_ffprobe(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", count=20, fps=12.5)
    with VideoSource(path) as source:
        numerator, denominator = probed(path, "stream=avg_frame_rate")[0]["avg_frame_rate"].split("/")
        assert source.info.fps == pytest.approx(int(numerator) / int(denominator))
