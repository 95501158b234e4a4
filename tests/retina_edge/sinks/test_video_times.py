"""Annotated videos play as long as their source, and show at each time what the source showed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_edge.detections import Detections
from retina_edge.pipeline.result import Result
from retina_edge.sinks import video_sink
from retina_edge.sinks.video_sink import VideoSink, written_rate
from retina_edge.sources.frames import Frame
from retina_edge.sources.video_source import VideoSource
from tests.media import probed, write_timed_video

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: sudo apt-get install ffmpeg")
LEVEL = 10  # difference of gray level between two frames


def save(
    path: Path, times: Sequence[float], *, fps: float | None, duration: Callable[[], float | None] = lambda: None
) -> list[int]:
    """Save frames with these times, and return the numbers of the frames that the video shows."""
    with VideoSink(path, fps=fps, duration=duration) as sink:
        for index, time in enumerate(times):
            image = np.full((32, 48, 3), LEVEL * index, np.uint8)
            sink.write(Result(Frame(image, index, time, "a.mkv"), Detections.empty((), ())))
    return shown(path, [LEVEL * index for index in range(len(times))])


def shown(path: Path, levels: Sequence[float]) -> list[int]:
    """Return the numbers of the frames that a saved video shows, given the gray level of each frame."""
    capture, numbers = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        numbers.append(int(np.abs(np.array(levels) - read[1].mean()).argmin()))
    capture.release()
    return numbers


def length(path: Path) -> float:
    return float(probed(path, "stream=duration")[0]["duration"])


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(
    steps=st.lists(st.integers(0, 800), max_size=20),
    fps=st.sampled_from([0.5, 4, 10, 23.976, 25, 30, 119.88]),
    start=st.floats(0, 100),
)
def test_each_frame_shows_what_was_visible(steps: list[int], fps: float, start: float) -> None:
    times = [start + sum(steps[:count]) / 1000 for count in range(len(steps) + 1)]
    with TemporaryDirectory() as folder:
        numbers = save(Path(folder, "a.mp4"), times, fps=fps)
    slots = [int(fps * (time - times[0]) + 0.5) for time in times]
    expected = [max(index for index, slot in enumerate(slots) if slot <= number) for number in range(slots[-1] + 1)]
    assert numbers == expected


@pytest.mark.parametrize("fps", [0.5, 7.3, 12.5, 23.976, 25, 29.97, 30000 / 1001, 60000 / 1001, 240])
@pytest.mark.parametrize("digits", [3, 9])
def test_a_constant_rate_keeps_every_frame_once(tmp_path: Path, fps: float, digits: int) -> None:
    """Also if the times are rounded to milliseconds, as in Matroska."""
    times = [round(index / fps, digits) for index in range(25)]
    assert save(tmp_path / "a.mp4", times, fps=fps) == list(range(25))


def test_the_last_frame_is_shown_to_the_end_of_its_source(tmp_path: Path) -> None:
    assert save(tmp_path / "a.mp4", [0, 0.1, 0.2], fps=10, duration=lambda: 0.6) == [0, 1, 2, 2, 2, 2]
    assert save(tmp_path / "b.mp4", [0, 0.1, 0.2], fps=10, duration=lambda: 0.1) == [0, 1, 2]


def test_times_that_go_back_are_the_time_of_the_frame_before(tmp_path: Path) -> None:
    assert save(tmp_path / "a.mp4", [0, 0.2, 0.1, 0.3], fps=10) == [0, 0, 2, 3]


def test_a_gap_that_is_too_long_is_cut_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(video_sink, "MAX_GAP_SECONDS", 1.0)
    with caplog.at_level(logging.WARNING):
        assert save(tmp_path / "a.mp4", [0, 95000, 95000.1], fps=10) == [0] * 11 + [1, 2]
    assert "shows 1 s of a gap of 95000 s in a.mkv" in caplog.text


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.floats(1e-6, 1e6))
def test_a_rate_is_written_exactly(fps: float) -> None:
    rate = written_rate(fps)
    assert rate == written_rate(rate)
    within = min(max(fps, video_sink.MIN_FPS), video_sink.MAX_FPS)
    assert rate == pytest.approx(within, abs=0.0011 + within / 2000)


@needs_ffmpeg
@pytest.mark.parametrize("fps", [1e-3, 0.123456, 1.0004, 24.0015, 30.00149, 59.94006, 71.4286, 654.3219, 5000])
def test_the_rate_that_ffprobe_reads_is_the_rate_that_the_sink_counts_with(tmp_path: Path, fps: float) -> None:
    save(tmp_path / "a.mp4", [0], fps=fps)
    numerator, denominator = map(int, probed(tmp_path / "a.mp4", "stream=r_frame_rate")[0]["r_frame_rate"].split("/"))
    assert numerator / denominator == pytest.approx(written_rate(fps), rel=1e-9)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2")),
        ("a.mkv", ("-c:v", "libx264", "-preset", "ultrafast", "-output_ts_offset", "50")),
        ("a.webm", ("-c:v", "libvpx")),
        ("a.avi", ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p")),
        ("live.webm", ("-c:v", "libvpx", "-live", "1")),
    ],
)
def test_a_saved_video_plays_as_long_as_its_source(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    times = [0.0, 0.033, 0.067, 0.1, 0.4, 0.42, 0.44, 0.5, 1.2, 1.25]
    source = VideoSource(write_timed_video(tmp_path / name, times, *options))
    out = tmp_path / "out.mp4"
    with source, VideoSink(out, fps=source.info.fps, duration=lambda: source.info.duration) as sink:
        assert source.info.fps is not None
        interval = 1 / source.info.fps
        levels = []
        for frame in source:
            levels.append(float(frame.image.mean()))
            sink.write(Result(frame, Detections.empty((), ())))
    assert source.info.duration is not None
    assert length(out) == pytest.approx(source.info.duration, abs=interval)
    assert length(out) == pytest.approx(1.25 + 0.04, abs=interval + 0.03)
    for number, index in enumerate(shown(out, levels)):
        assert times[index] <= (number + 0.51) * interval
        assert index + 1 == len(times) or times[index + 1] >= (number + 0.49) * interval
