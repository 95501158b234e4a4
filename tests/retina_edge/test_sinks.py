"""Sinks: what is written can be read back, nothing half-written takes the place of something whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from retina_edge import Detections
from retina_edge.image_file import read_image
from retina_edge.streams.sinks import (
    ImageSink,
    JsonlSink,
    Result,
    Sink,
    SinkError,
    VideoSink,
    WindowSink,
    check_save,
    saving_sink,
)
from retina_edge.streams.sources import Frame, ImageSource, VideoSource, open_sources
from tests.media import count_frames, write_picture, write_video
from tests.stand_in import patch_frame


def result(index: int = 0, *, size: tuple[int, int] = (64, 96), name: str = "a.jpg", count: int = 1) -> Result:
    detections = Detections(
        np.array([[1, 2, 30.123456, 40]] * count, np.float32).reshape(count, 4),
        np.full(count, 0.75, np.float32),
        np.full(count, 1, np.int32),
        ("person", "naïve"),
        (1, 2),
    )
    image = patch_frame(size, (8, 8))
    return Result(Frame(image, index, None if count == 0 else index / 25, name), detections, image)


def write_all(sink: Sink, results: list[Result], *, error: BaseException | None = None) -> None:
    with sink:
        for item in results:
            sink.write(item)
        if error is not None:
            raise error


@pytest.mark.parametrize("fps", [25.0, 12.5, 29.97, 59.94005994, 119.88, 7.3])
def test_a_video_has_the_frames_size_and_rate(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "new folder" / "out.mp4"
    with VideoSink(path, fps=fps) as sink:
        for index in range(7):
            sink.write(result(index, size=(62, 94)))
        assert not path.exists()
    count, size, rate = count_frames(path)
    assert (count, size) == (7, (62, 94))
    assert rate == pytest.approx(fps, abs=0.01)
    assert [item.name for item in path.parent.iterdir()] == ["out.mp4"]


def test_odd_sizes_and_unknown_rates(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "odd.mp4", fps=None) as sink:
        sink.write(result(size=(33, 47)))
    assert count_frames(tmp_path / "odd.mp4")[0] == 1


def test_no_frame_no_file(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "out.mp4", fps=25):
        pass
    assert list(tmp_path.iterdir()) == []


def test_after_an_error_the_old_video_stays_and_the_part_is_playable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"the old one")
    with pytest.raises(ZeroDivisionError):
        write_all(VideoSink(path, fps=25), [result(i) for i in range(5)], error=ZeroDivisionError())
    assert path.read_bytes() == b"the old one"
    assert count_frames(tmp_path / "out.partial.mp4")[0] == 5
    assert "5 frames are in" in caplog.text


def test_after_ctrl_c_the_video_is_whole(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result()], error=KeyboardInterrupt())
    assert count_frames(tmp_path / "out.mp4")[0] == 1


def test_frames_of_another_size_are_an_error_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"expected frames of 96x64 pixels, frame 1 of b\.jpg has 100x64"):
        write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result(0), result(1, size=(64, 100), name="b.jpg")])


def test_a_writer_that_does_not_open_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retina_edge.streams.sinks.CODECS", ("zzzz",))
    with pytest.raises(SinkError, match="none of zzzz"), VideoSink(tmp_path / "out.mp4", fps=25) as sink:
        sink.write(result())
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_its_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        def release(self) -> None:
            (tmp_path / "out.partial.mp4").write_bytes(b"what fitted")

        def write(self, _picture: object) -> None:
            """OpenCV reports nothing."""

    monkeypatch.setattr(VideoSink, "_open", lambda *_: FullDisk())
    with pytest.raises(SinkError, match="space on the disk"):
        write_all(VideoSink(tmp_path / "out.mp4", fps=25), [result()])
    assert not (tmp_path / "out.mp4").exists()


def test_an_unwritable_place_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for sink in (VideoSink(tmp_path / "file" / "out.mp4", fps=25), ImageSink(tmp_path / "file")):
        with pytest.raises(OSError, match="file"), sink:
            sink.write(result())
    with pytest.raises(OSError, match="file"), JsonlSink(tmp_path / "file" / "out.jsonl"):
        pass


def test_pictures_keep_their_names_and_formats(tmp_path: Path) -> None:
    with ImageSink(tmp_path / "out") as sink:
        for name in ("x/a.png", "y/b.jpg", "c.webp"):
            sink.write(result(name=name))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg", "c.webp"]
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), result().picture)


@pytest.mark.parametrize("name", ["picture", "picture.xyz"])
def test_a_format_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SinkError, match=r"picture.*cannot write"), ImageSink(tmp_path) as sink:
        sink.write(result(name=name))


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    with JsonlSink(path) as sink:
        sink.write(result(0, name="v.mp4"))
        sink.write(result(1, name="v.mp4", count=0))
        sink.write(result(2, name="v.mp4", count=3))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {
        "frame": 0,
        "timestamp": 0.0,
        "source": "v.mp4",
        "detections": [{"box": [1.0, 2.0, 30.12, 40.0], "score": 0.75, "label": 1, "name": "naïve"}],
    }
    assert lines[1] == {"frame": 1, "timestamp": None, "source": "v.mp4", "detections": []}
    assert len(lines[2]["detections"]) == 3


def test_json_lines_outside_the_block(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with block"):
        JsonlSink(tmp_path / "out.jsonl").write(result())


def test_no_display_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SinkError, match="DISPLAY is not set"), WindowSink():
        pass


def test_a_headless_opencv_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def headless(*_arguments: Any) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", headless)
    with pytest.raises(SinkError, match="opencv-python-headless"), WindowSink():
        pass


@pytest.mark.parametrize(
    ("key", "visible", "goes_on"), [(255, 1.0, True), (27, 1.0, False), (ord("q"), 1.0, False), (255, 0.0, False)]
)
def test_a_window_ends_by_key_or_close(
    monkeypatch: pytest.MonkeyPatch, key: int, visible: float, goes_on: bool
) -> None:
    shown: list[Any] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _title, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _delay: key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible)
    window = WindowSink()
    with window:
        window.write(result())
        assert window.show() is goes_on
    assert len(shown) == 1


def test_where_each_source_is_saved(tmp_path: Path) -> None:
    pictures = ImageSource([write_picture(tmp_path / "a.png")])
    assert isinstance(saving_sink(tmp_path / "out", pictures), ImageSink)
    with VideoSource(write_video(tmp_path / "v.avi", count=2, fps=12.5)) as video:
        direct, inside = saving_sink(tmp_path / "x.mp4", video), saving_sink(tmp_path / "out", video)
    assert isinstance(direct, VideoSink)
    assert isinstance(inside, VideoSink)
    assert (direct.path, inside.path) == (tmp_path / "x.mp4", tmp_path / "out" / "v.mp4")


@pytest.mark.parametrize(
    ("save", "sources", "says"),
    [
        ("out.mp4", ["a/1.png"], "an MP4 takes one video"),
        ("out.mp4", ["a"], "an MP4 takes one video"),
        ("out.mp4", ["v.mp4", "w.mp4"], "an MP4 takes one video"),
        ("out.avi", ["v.mp4"], "a name ending in .mp4, or a folder"),
        ("out.jpg", ["a/1.png"], "a name ending in .mp4, or a folder"),
        ("out", ["a/1.png", "b/1.png"], "two sources would write"),
        ("out", ["v.mp4", "b/v.mp4"], "two sources would write"),
        ("a", ["a"], "would replace the source"),
        ("a", ["a/1.png"], "would replace the source"),
        ("v.mp4", ["v.mp4"], "would replace the source"),
        (".", ["v.mp4"], "would replace the source"),
    ],
)
def test_places_that_cannot_be_meant_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str, sources: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        write_picture(Path(folder) / "1.png")
    for name in ("v.mp4", "w.mp4", "b/v.mp4"):
        Path(name).touch()
    with pytest.raises(SinkError, match=says):
        check_save(Path(save), open_sources(sources))


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
def test_places_that_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str, sources: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/1.png", "b/2.png"):
        Path(path).parent.mkdir()
        write_picture(Path(path))
    Path("v.mp4").touch()
    check_save(Path(save), open_sources(sources))
