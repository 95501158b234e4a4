"""Sinks: their files can be read back, and an incomplete file never overwrites a complete one."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engines.core.errors import SinkError
from engines.core.file_lock import LEFT_SECONDS
from retina_edge import Detections
from retina_edge.imaging.image_file import read_image, write_image
from retina_edge.imaging.opencv_log import _log_level_setter, quiet_opencv
from retina_edge.pipeline.result import Result
from retina_edge.sinks import recording_sink
from retina_edge.sinks.image_sink import ImageSink
from retina_edge.sinks.output_checks import check_outputs
from retina_edge.sinks.per_stream_sink import PerStreamSink, sink_for_stream
from retina_edge.sinks.recording_sink import RecordingSink
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.text_sink import JsonlSink
from retina_edge.sinks.video_sink import MAX_STILL_SECONDS, VideoSink, partial_files
from retina_edge.sinks.window_sink import WindowSink
from retina_edge.sources.frames import Frame
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource
from tests.media import count_frames, write_patch_image, write_video
from tests.results import result
from tests.retina_edge.sinks.recorder import write_all
from tests.stand_in import patch_frame

ROOT = Path(__file__).parents[3]
# Name of an incomplete out.mp4.
PARTIAL = "out.0123456789abcdef.partial.mp4"


@pytest.mark.parametrize("fps", [25.0, 12.5, 29.97, 59.94005994, 119.88, 7.3])
def test_a_video_has_the_frames_size_and_rate(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "new folder" / "out.mp4"
    with VideoSink(path, fps=fps) as sink:
        for index in range(7):
            sink.write(result(index, size=(62, 94), fps=fps))
        assert not path.exists()
    count, size, rate = count_frames(path)
    assert (count, size) == (7, (62, 94))
    assert rate == pytest.approx(fps, abs=0.01)
    assert [item.name for item in path.parent.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(("size", "saved"), [((33, 47), (34, 48)), ((33, 48), (34, 48)), ((32, 47), (32, 48))])
def test_an_odd_size_grows_by_one_pixel(tmp_path: Path, size: tuple[int, int], saved: tuple[int, int]) -> None:
    with VideoSink(tmp_path / "odd.mp4", fps=None) as sink:
        for index in range(2):
            sink.write(result(index, size=size))
    assert count_frames(tmp_path / "odd.mp4") == (2, saved, 25.0)


def test_a_relative_name_with_a_colon_is_a_file_not_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_all(VideoSink(Path("13:30.mp4"), fps=25), [result()])
    assert [item.name for item in tmp_path.iterdir()] == ["13:30.mp4"]


def test_a_video_name_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"v\xff.mp4")
    with pytest.raises(SinkError, match="not UTF-8, which OpenCV needs"):
        write_all(VideoSink(path, fps=25), [result()])
    assert list(tmp_path.iterdir()) == []


def test_written_lists_the_finished_files(tmp_path: Path) -> None:
    video, images, jsonl = VideoSink(tmp_path / "v.mp4", fps=25), ImageSink(tmp_path / "p"), JsonlSink(tmp_path / "j")
    for sink in (video, images, jsonl):
        assert sink.written == ()
        write_all(sink, [result()])
    assert video.written + images.written + jsonl.written == (tmp_path / "v.mp4", tmp_path / "p", tmp_path / "j")
    failed = VideoSink(tmp_path / "v.mp4", fps=25)
    with pytest.raises(ZeroDivisionError):
        write_all(failed, [result()], error=ZeroDivisionError())
    assert failed.written == ()


def test_opencv_is_silent_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_level = _log_level_setter()
    before = set_level(3)
    levels: list[int] = []

    def record_level() -> None:
        levels.append(set_level(0))
        set_level(levels[-1])

    class Writer:
        def write(self, _image: object) -> None:
            record_level()

        def release(self) -> None:
            record_level()
            write_video(partial, count=1)

    def encode(*_arguments: object) -> tuple[bool, Any]:
        record_level()
        return True, np.zeros(3, np.uint8)

    partial = tmp_path / "partial.mp4"
    monkeypatch.setattr("retina_edge.sinks.video_sink.random_partial_path", lambda _path: partial)
    monkeypatch.setattr(VideoSink, "_open", lambda *_: Writer())
    monkeypatch.setattr(cv2, "imencode", encode)
    try:
        write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result()])
        write_image(tmp_path / "a.png", result().annotated)
        assert levels == [0, 0, 0]
        with quiet_opencv(), quiet_opencv():
            record_level()
        record_level()
        assert levels[3:] == [0, 3]
    finally:
        set_level(before)


def test_without_frames_no_video_is_written(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "out.mp4", fps=25):
        pass
    assert list(tmp_path.iterdir()) == []


def test_after_an_error_the_old_video_stays_and_the_partial_one_is_playable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the old one")
    with pytest.raises(ZeroDivisionError):
        write_all(VideoSink(path, fps=25), [result(i) for i in range(5)], error=ZeroDivisionError())
    assert path.read_bytes() == b"the old one"
    (partial,) = partial_files(path)
    assert count_frames(partial)[0] == 5
    assert "5 frames are in" in caplog.text


def test_after_ctrl_c_the_video_is_complete(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result()], error=KeyboardInterrupt())
    assert count_frames(tmp_path / "out.mp4")[0] == 1


def test_a_frame_of_another_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"expected frames of 96x64 pixels, got 100x64 in frame 1 of b\.jpg"):
        write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result(0), result(1, size=(64, 100), name="b.jpg")])


def test_a_writer_that_does_not_open_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retina_edge.sinks.video_sink.CODECS", ("zzzz",))
    with pytest.raises(SinkError, match="any of zzzz"), VideoSink(tmp_path / "out.mp4", fps=25) as sink:
        sink.write(result())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stored", [0, 10, 0.5, -1])
def test_a_truncated_video_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: float) -> None:
    """A full disk stores some bytes, a fraction, or all but one byte, and OpenCV does not report it."""
    complete = write_video(tmp_path / "complete.mp4", count=5).read_bytes()

    class FullDisk:
        def release(self) -> None:
            end = int(stored * len(complete)) if 0 < stored < 1 else int(stored)
            partial.write_bytes(complete[:end])

        def write(self, _image: object) -> None:
            """Do nothing, like OpenCV on a full disk."""

    partial = tmp_path / "partial.mp4"
    monkeypatch.setattr("retina_edge.sinks.video_sink.random_partial_path", lambda _path: partial)
    monkeypatch.setattr(VideoSink, "_open", lambda *_: FullDisk())
    with pytest.raises(SinkError, match="cut off and cannot be played; check the space on the disk"):
        write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result()])
    assert not (tmp_path / "out.mp4").exists()


def test_an_unwritable_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for sink in (VideoSink(tmp_path / "file" / "out.mp4", fps=25), ImageSink(tmp_path / "file")):
        with pytest.raises(OSError, match="file"), sink:
            sink.write(result())
    with pytest.raises(OSError, match="file"), JsonlSink(tmp_path / "file" / "out.jsonl"):
        pass


def test_images_keep_their_names_and_formats(tmp_path: Path) -> None:
    with ImageSink(tmp_path / "out") as sink:
        for name in ("x/a.png", "y/b.jpg", "c.webp"):
            sink.write(result(name=name))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg", "c.webp"]
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), result().annotated)


@pytest.mark.parametrize("name", ["picture", "picture.xyz", "picture.pgm"])
def test_the_error_names_a_format_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(SinkError, match=r"picture.*cannot write 96x64 pixels in color as .*\.png or \.jpg"):
        write_image(tmp_path / name, result().annotated)


@pytest.mark.parametrize("name", ["a.pgm", "a.pbm"])
def test_images_of_gray_formats_are_saved_as_png(tmp_path: Path, name: str) -> None:
    with ImageSink(tmp_path) as sink:
        sink.write(result(name=name))
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
    assert np.array_equal(read_image(tmp_path / f"{name}.png"), result().annotated)


def test_json_lines_hold_a_line_per_frame(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    with JsonlSink(path) as sink:
        sink.write(result(0, name="v.mp4"))
        sink.write(result(1, name="v.mp4", count=0))
        sink.write(result(2, name="v.mp4", count=3))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    captured = [datetime.fromisoformat(line.pop("captured").replace("Z", "+00:00")) for line in lines]
    assert all(abs((datetime.now(timezone.utc) - moment).total_seconds()) < 10 for moment in captured)
    common = {"stream": "a", "source": "v.mp4", "width": 96, "height": 64, "events": [], "regions": {}}
    common |= {"visits": []}
    common |= {"age_at_inference": None, "age_at_output": None}
    detection = {"box": [1.0, 2.0, 30.12, 40.0], "score": 0.75, "label": 1, "name": "naïve"}
    assert lines[0] == {**common, "frame": 0, "timestamp": 0.0, "detections": [detection]}
    assert lines[1] == {**common, "frame": 1, "timestamp": None, "detections": []}
    assert len(lines[2]["detections"]) == 3


def test_json_lines_keep_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"v\xff.png")
    write_all(JsonlSink(tmp_path / "out.jsonl"), [result(name=name)])
    (line,) = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["source"] == name


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("count", [1, 500])  # the error appears at the end, and while writing
def test_the_error_of_a_full_disk_names_the_json_file(count: int) -> None:
    sink = JsonlSink(Path("/dev/full"))
    with pytest.raises(OSError, match="'/dev/full'") as caught:
        write_all(sink, [result()] * count)
    assert caught.value.errno == errno.ENOSPC
    assert sink.written == ()


def test_writing_json_lines_outside_the_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with block"):
        JsonlSink(tmp_path / "out.jsonl").write(result())


def test_a_window_without_a_display_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SinkError, match="DISPLAY is not set"), WindowSink():
        pass


def test_a_window_with_a_headless_opencv_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def headless(*_arguments: Any) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "destroyAllWindows", headless)
    with pytest.raises(SinkError, match="opencv-python-headless"), WindowSink():
        pass


@pytest.mark.parametrize(
    ("key", "visible", "goes_on"), [(255, 1.0, True), (27, 1.0, False), (ord("q"), 1.0, False), (255, 0.0, False)]
)
def test_a_key_or_closing_ends_the_window(
    monkeypatch: pytest.MonkeyPatch, key: int, visible: float, goes_on: bool
) -> None:
    shown: list[Any] = []
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _title, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _delay: key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible)
    window = WindowSink()
    with window:
        window.write(result())
        assert window.show() is goes_on
    assert len(shown) == 1


@pytest.mark.parametrize("broken", ["imshow", "waitKey", "getWindowProperty"])
def test_an_error_of_a_closed_window_ends_the_window(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def closed(*_arguments: object) -> None:
        raise cv2.error("NULL guiReceiver (please create a window)")

    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "destroyAllWindows", "imshow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _delay: 255)
    for name in (broken, "destroyWindow"):
        monkeypatch.setattr(cv2, name, closed)
    window = WindowSink()
    with window:
        window.write(result())
        assert window.show() is False


def test_each_kind_of_source_gets_its_sink(tmp_path: Path) -> None:
    images = ImageSource([write_patch_image(tmp_path / "a.png")])
    assert isinstance(sink_for_stream(tmp_path / "out", images, name="a", live=False, fps=None), ImageSink)
    video = VideoSource(write_video(tmp_path / "v.avi", count=2))
    direct, inside = (
        sink_for_stream(tmp_path / save, video, name="a", live=False, fps=12.5) for save in ("x.mp4", "out")
    )
    assert isinstance(direct, VideoSink)
    assert isinstance(inside, VideoSink)
    assert (direct.path, inside.path) == (tmp_path / "x.mp4", tmp_path / "out" / "v.mp4")
    assert isinstance(sink_for_stream(tmp_path / "out", VideoSource(0), name="a", live=True, fps=25), RecordingSink)
    assert isinstance(sink_for_stream(tmp_path / "x.mp4", VideoSource(0), name="a", live=True, fps=25), VideoSink)


@pytest.mark.parametrize(
    ("save", "sources", "message"),
    [
        ("out.mp4", ["a/1.png"], "an MP4 takes one video"),
        ("out.mp4", ["a"], "an MP4 takes one video"),
        ("out.mp4", ["v.mp4", "w.mp4"], "an MP4 takes one video"),
        ("out.avi", ["v.mp4"], "a name ending in .mp4, or a folder"),
        ("out.jpg", ["a/1.png"], "a name ending in .mp4, or a folder"),
        ("out", ["a/1.png", "b/1.png"], "two sources would write"),
        ("out", ["v.mp4", "b/v.mp4"], "two sources would write"),
        ("a", ["a"], "would overwrite the source"),
        ("a", ["a/1.png"], "would overwrite the source"),
        ("v.mp4", ["v.mp4"], "would overwrite the source"),
        (".", ["v.mp4"], "would overwrite the source"),
    ],
)
def test_unsuitable_values_of_save_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str, sources: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        write_patch_image(Path(folder) / "1.png")
    for name in ("v.mp4", "w.mp4", "b/v.mp4"):
        Path(name).touch()
    with pytest.raises(SinkError, match=message):
        check_outputs(Path("m.onnx"), open_sources(sources), save=Path(save), jsonl=None)


@pytest.mark.parametrize(
    ("save", "jsonl", "sources", "message"),
    [
        (None, "w.mp4", ["w.mp4"], "--json w.mp4: would overwrite the source w.mp4"),
        (None, "a/1.png", ["a"], "would overwrite the source"),
        (None, "link.jsonl", ["w.mp4"], "would overwrite the source w.mp4"),
        (None, "m.onnx", ["w.mp4"], "would overwrite the model m.onnx"),
        ("out.mp4", None, [PARTIAL], f"--save out.mp4: would overwrite the source {PARTIAL}"),
        ("out.mp4", "a/../out.mp4", ["w.mp4"], "--save would write the same file"),
        ("out.mp4", PARTIAL, ["w.mp4"], "--save would write the same file"),
    ],
)
def test_outputs_that_would_overwrite_an_input_or_another_output_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: str | None,
    jsonl: str | None,
    sources: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
    write_patch_image(Path("a/1.png"))
    for name in ("w.mp4", PARTIAL, "m.onnx"):
        Path(name).touch()
    Path("link.jsonl").symlink_to("w.mp4")
    with pytest.raises(SinkError, match=message):
        check_outputs(
            Path("m.onnx"),
            open_sources(sources),
            save=None if save is None else Path(save),
            jsonl=None if jsonl is None else Path(jsonl),
        )


@pytest.mark.parametrize(
    ("save", "sources"),
    [
        ("out.mp4", ["v.mp4"]),
        ("out", ["v.mp4", "a"]),
        ("a", ["b/2.png"]),
        ("run.v2", ["a"]),
        ("out.mp4", ["0"]),
        ("o", ["0"]),
    ],
)
def test_suitable_outputs_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str, sources: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/1.png", "b/2.png"):
        Path(path).parent.mkdir()
        write_patch_image(Path(path))
    Path("v.mp4").touch()
    Path("old.jsonl").touch()
    check_outputs(Path("m.onnx"), open_sources(sources), save=Path(save), jsonl=Path("old.jsonl"))


def live(index: int, seconds: float, *, size: tuple[int, int] = (64, 96)) -> Result:
    """Return a result of a live stream, captured ``seconds`` after the start."""
    frame = Frame(patch_frame(size, (8, 8)), index, None, "camera", 1000.0 + seconds)
    return Result(frame, Detections.empty((), ()), "camera", True)


def test_the_video_of_a_live_stream_plays_in_real_time(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "v.mp4", fps=10) as sink:
        # Frames come twice as fast as the video, then too slowly, then after a long gap.
        for index, seconds in enumerate([0, 0.05, 0.1, 0.15, 0.2, 1.0, 1.5, 100.0]):
            sink.write(live(index, seconds))
    count, _, _ = count_frames(tmp_path / "v.mp4")
    # The frames up to 1.5 s, the last of them repeated, and the one after the gap.
    assert count == 16 + round(10 * MAX_STILL_SECONDS) + 1


def test_a_recording_is_cut_into_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_sink, "SEGMENT_SECONDS", 2.0)
    clock = iter(range(100))
    start = datetime(2026, 11, 26, 7, 0, 0, tzinfo=timezone.utc)
    moments = property(lambda _frame: start + timedelta(seconds=next(clock)))
    monkeypatch.setattr(Frame, "captured_at", moments)
    with RecordingSink(tmp_path / "r", "yard", fps=10) as sink:
        for index in range(25):  # 2.5 s: more than a segment of 2 s
            sink.write(live(index, index / 10))
        sink.write(live(25, 2.5, size=(32, 32)))  # another resolution
        sink.write(live(26, 13.0, size=(32, 32)))  # after a gap
        assert len(list(tmp_path.glob("r/*.partial.mkv"))) == 1  # the other segments are complete
    segments = {path.name: count_frames(path)[:2] for path in (tmp_path / "r").iterdir()}
    assert segments == {
        "yard-20261126T070000Z.mkv": (20, (64, 96)),
        "yard-20261126T070001Z.mkv": (5, (64, 96)),
        "yard-20261126T070002Z.mkv": (1, (32, 32)),
        "yard-20261126T070003Z.mkv": (1, (32, 32)),
    }
    assert sink.written == (tmp_path / "r",)


def test_the_segment_of_a_killed_process_can_be_played_and_is_kept_by_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import os, signal, sys\nimport numpy as np\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        "from retina_edge.sinks.recording_sink import RecordingSink\n"
        "from tests.retina_edge.sinks.test_sinks import live\n"
        "sink, generator = RecordingSink(Path(sys.argv[1]), 'yard', fps=10), np.random.default_rng(0)\n"
        "for index in range(300):\n"
        "    made = live(index, index / 10, size=(240, 320))\n"
        "    made.frame.image[:] = generator.integers(0, 255, made.frame.image.shape, np.uint8)\n"
        "    sink.write(made)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    (partial,) = tmp_path.iterdir()
    assert partial.name.endswith(".partial.mkv")
    time.sleep(LEFT_SECONDS)
    (tmp_path / "other-20261126T070000Z.partial.mkv").touch()  # of another stream
    with RecordingSink(tmp_path, "yard", fps=10):
        pass
    whole = partial.with_name(partial.name.replace(".partial", ""))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-20261126T070000Z.partial.mkv", whole.name]
    assert "recovered from a process that was killed" in caplog.text
    capture, frames = cv2.VideoCapture(str(whole)), 0
    while capture.read()[0]:
        frames += 1
    assert frames > 250


def test_two_recordings_that_begin_in_the_same_second_are_both_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime(2026, 11, 26, 7, 0, 0, tzinfo=timezone.utc)
    monkeypatch.setattr(Frame, "captured_at", property(lambda _frame: moment))
    with RecordingSink(tmp_path, "yard", fps=10) as one, RecordingSink(tmp_path, "yard", fps=10) as other:
        for index in range(4):
            one.write(live(index, index / 10))
            other.write(live(index, index / 10, size=(32, 32)))
    sizes = {path.name: count_frames(path)[1] for path in tmp_path.iterdir()}
    assert sizes == {"yard-20261126T070000Z.mkv": (64, 96), "yard-20261126T070000Z-2.mkv": (32, 32)}


def test_a_video_that_another_program_writes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoSink(path, fps=25) as first:
        first.write(result(0))
        second = VideoSink(path, fps=25)
        with pytest.raises(SinkError, match="another process writes this video; end it, or use another name"):
            second.write(result(0))
        second.__exit__(None, None, None)
        first.write(result(1))
    assert count_frames(path)[0] == 2


def test_a_link_under_the_name_of_the_partial_video_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / PARTIAL).symlink_to(victim)
    write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result(0)])
    assert victim.read_text() == "precious"
    assert count_frames(tmp_path / "out.mp4")[0] == 1


def test_a_partial_video_of_a_killed_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.core.file_lock.LEFT_SECONDS", 0.0)
    (tmp_path / PARTIAL).write_bytes(b"half")
    write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result(0)])
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_files_of_the_user_that_look_like_incomplete_videos_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.core.file_lock.LEFT_SECONDS", 0.0)
    monkeypatch.setattr("retina_edge.sinks.recording_sink.is_left", lambda _path: True)
    names = ["out.partial.mp4", "out.1.partial.mp4", "out.mp4.partial", "yard-20261126T070000Z.partial.mkv"]
    for name in [*names, "yard-20261126T070000Z.mkv"]:
        (tmp_path / name).write_bytes(name.encode())
    write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result(0)])
    with RecordingSink(tmp_path, "yard", fps=10):
        pass
    for name in [*names, "yard-20261126T070000Z.mkv"]:
        assert (tmp_path / name).read_bytes() == name.encode()


def test_each_stream_gets_a_sink_which_closes_when_the_stream_ends(tmp_path: Path) -> None:
    def open_sink(name: str) -> Sink:
        return VideoSink(tmp_path / f"{name}.mp4", fps=25)

    sink = PerStreamSink(open_sink)
    with sink:
        for index in range(3):
            for stream in ("a", "b"):
                sink.write(replace(result(index), stream=stream))
        sink.end("a")
        assert list(sink.written) == [tmp_path / "a.mp4"]
        sink.write(replace(result(3), stream="b"))
    assert list(sink.written) == [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert [count_frames(path)[0] for path in sink.written] == [3, 4]
    broken = PerStreamSink(open_sink)
    with pytest.raises(ZeroDivisionError):
        write_all(broken, [replace(result(), stream=stream) for stream in ("a", "c")], error=ZeroDivisionError())
    assert broken.written == ()
    assert sorted(path.name[0] for path in tmp_path.glob("*.partial.mp4")) == ["a", "c"]
