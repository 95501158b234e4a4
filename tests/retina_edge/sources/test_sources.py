"""Sources: intact and damaged images, folders, globs and videos, written by the tests."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import read_image
from retina_edge.sources.image_source import ImageSource, output_name
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource
from retina_edge.system.redaction import redact
from tests.media import write_patch_image, write_video

# Error of lossy codecs and of the narrow range of video levels, in gray levels.
CODEC_LEVELS = 9
FORMATS = (".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm")


def indices(source: ImageSource | VideoSource) -> list[int]:
    with source:
        return [frame.index for frame in source]


@pytest.mark.parametrize("suffix", FORMATS)
def test_one_image(tmp_path: Path, suffix: str) -> None:
    path = write_patch_image(tmp_path / f"a{suffix}", size=(31, 47))
    (source,) = open_sources([str(path)])
    with source:
        (frame,) = source
    assert frame.image.shape == (31, 47, 3)
    assert frame.image.dtype == np.uint8
    assert (frame.index, frame.timestamp, frame.name) == (0, None, str(path))
    assert source.info.frames == 1


def test_grayscale_alpha_and_16_bit_files_become_bgr(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, array in {
        "gray.png": rng.integers(0, 256, (20, 30), np.uint8),
        "alpha.png": rng.integers(0, 256, (20, 30, 4), np.uint8),
        "deep.png": rng.integers(0, 65536, (20, 30, 3), np.uint16),
    }.items():
        assert cv2.imwrite(str(tmp_path / name), array)
        image = read_image(tmp_path / name)
        assert image.shape == (20, 30, 3)
        assert image.dtype == np.uint8


def test_a_folder_delivers_its_images_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.bmp"):
        write_patch_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (source,) = open_sources([str(tmp_path)])
    with source:
        assert [Path(frame.name).name for frame in source] == ["a.PNG", "b.jpg", "c.bmp"]
    assert source.info.frames == 3
    assert source.output_names == ("a.PNG", "b.jpg", "c.bmp")


def test_a_glob_matches_files_in_subfolders(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("a1.png", "a2.png", "b1.png", "x/a3.png"):
        write_patch_image(tmp_path / name)
    (source,) = open_sources([str(tmp_path / "**" / "a*.png")])
    assert [path.name for path in source.paths] == ["a1.png", "a2.png", "a3.png"]  # type: ignore[attr-defined]


def test_a_glob_opens_each_match_as_an_image_or_a_video(tmp_path: Path) -> None:
    write_patch_image(tmp_path / "a.png")
    write_video(tmp_path / "b.avi", count=2)
    write_patch_image(tmp_path / "c.jpg")
    write_patch_image(tmp_path / "d.jpg")
    kinds = [(type(source), len(source.output_names)) for source in open_sources([str(tmp_path / "*")])]
    assert kinds == [(ImageSource, 1), (VideoSource, 1), (ImageSource, 2)]


def test_output_names_keep_formats_that_support_color() -> None:
    names = ("a.png", "b.JPG", "c.ppm", "d.pgm", "e.PBM", "f.xyz", "g")
    saved = [output_name(Path("x") / name) for name in names]
    assert saved == ["a.png", "b.JPG", "c.ppm", "d.pgm.png", "e.PBM.png", "f.xyz.png", "g.png"]


def test_neighboring_images_become_one_source(tmp_path: Path) -> None:
    names = [str(write_patch_image(tmp_path / f"{i}.png")) for i in range(3)]
    video = str(write_video(tmp_path / "v.avi", count=2))
    sources = open_sources([names[0], names[1], video, names[2]])
    assert [len(source.output_names) for source in sources] == [2, 1, 1]
    assert isinstance(sources[1], VideoSource)


@pytest.mark.parametrize("cut", [2, 100, 1000])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_image_is_an_error_that_names_the_file(
    tmp_path: Path, suffix: str, cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_patch_image(tmp_path / f"cut{suffix}", size=(90, 120))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(SourceError, match=rf"cut\{suffix}"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_a_truncated_jpeg_with_a_complete_thumbnail_is_detected(tmp_path: Path) -> None:
    thumbnail = write_patch_image(tmp_path / "t.jpg").read_bytes()
    data = write_patch_image(tmp_path / "a.jpg", size=(90, 120)).read_bytes()
    header = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    (tmp_path / "whole.jpg").write_bytes(data[:2] + header + data[2:] + b"trailing bytes of a camera")
    assert read_image(tmp_path / "whole.jpg").shape == (90, 120, 3)
    (tmp_path / "cut.jpg").write_bytes(data[:2] + header + data[2:-500])
    with pytest.raises(SourceError, match=r"cut\.jpg: the image is truncated"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xff", b"just text", b"\x89PNG\r\n\x1a\n", b"BM" * 9]
)
def test_a_file_that_is_not_an_image_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(SourceError, match=r"odd\.png"):
        read_image(tmp_path / "odd.png")


def test_bad_images_in_a_folder_are_recorded_and_the_rest_is_read(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        write_patch_image(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"text")
    (tmp_path / "d.jpg").write_bytes((tmp_path / "d.jpg").read_bytes()[:-40])
    (source,) = open_sources([str(tmp_path)])
    assert indices(source) == [0, 2]  # type: ignore[arg-type]
    assert ["b.jpg" in source.errors[0], "d.jpg" in source.errors[1], len(source.errors)] == [True, True, 2]


def test_a_single_bad_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"text")
    (source,) = open_sources([str(tmp_path / "b.jpg")])
    with source, pytest.raises(SourceError, match=r"b\.jpg"):
        list(source)


@pytest.mark.parametrize(("name", "fps"), [("v.mp4", 25.0), ("v.avi", 12.5), ("v.mkv", 29.97)])
def test_a_video_delivers_all_frames_with_their_times(tmp_path: Path, name: str, fps: float) -> None:
    path = write_video(tmp_path / name, count=20, fps=fps, size=(48, 64))
    (source,) = open_sources([str(path)])
    with source:
        assert source.info.size == (48, 64)
        assert source.info.fps == pytest.approx(fps, abs=0.01)
        assert source.info.frames == 20
        read = list(source)
    assert [frame.index for frame in read] == list(range(20))
    assert all(frame.image.shape == (48, 64, 3) for frame in read)
    times = [frame.timestamp for frame in read if frame.timestamp is not None]
    # Matroska stores whole milliseconds.
    assert np.abs(np.array(times) - np.arange(20) / fps).max() < 2e-3
    # Each frame has its own content: no frame in the list was overwritten.
    gray = [int(frame.image[4, 4, 0]) for frame in read[::5]]
    assert gray == pytest.approx([0, 50, 100, 150], abs=CODEC_LEVELS)
    assert source.errors == source.warnings == []


def test_a_video_that_ends_early_is_a_warning(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.avi", count=40, codec="MJPG")
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    source = VideoSource(tmp_path / "cut.avi")
    read = indices(source)
    assert 0 < len(read) < 39
    (warning,) = source.warnings
    assert f"declares 40 frames, {len(read)} could be read" in warning
    assert "cut.avi" in warning


def test_a_relative_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v.mp4", count=3).rename("12:30.mp4")
    (source,) = open_sources(["12:30.mp4"])
    assert indices(source) == [0, 1, 2]  # type: ignore[arg-type]
    assert source.name == "12:30.mp4"


def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"v\xff.mp4")
    for address in (path, "http://127.0.0.1:9/\udcff"):
        with pytest.raises(SourceError, match="not UTF-8, which OpenCV needs; rename it"), VideoSource(address):
            pass


class FakeCamera:
    """A capture of three frames that declares neither size nor length."""

    def __init__(self, *_arguments: object) -> None:
        self.frames_left = 3
        self.released = False

    def isOpened(self) -> bool:
        return True

    def get(self, item: int) -> float:
        return 90000.0 if item == cv2.CAP_PROP_FPS else -1.0

    def set(self, _item: int, _value: float) -> bool:
        return False

    def grab(self) -> bool:
        self.frames_left -= 1
        return self.frames_left >= 0

    def retrieve(self, image: np.ndarray | None) -> tuple[bool, np.ndarray]:
        return True, np.zeros((4, 6, 3), np.uint8) if image is None else image

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize(("address", "advice"), [(0, "camera is connected"), ("http://u:secret@h/live", "network")])
def test_a_live_source_has_times_of_the_clock_and_its_end_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, address: int | str, advice: str
) -> None:
    clock = iter([100.0, 100.0, 100.5, 100.5, 101.0, 101.0, 103.0, 103.0, 103.0])
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    monkeypatch.setattr("retina_edge.sources.video_source.time.monotonic", lambda: next(clock))
    with VideoSource(address) as source:
        assert (source.info.size, source.info.fps, source.info.frames) == (None, None, None)
        assert [frame.timestamp for frame in source] == [0.5, 1.0, 3.0]
    (warning,) = source.warnings
    assert warning.startswith(f"{source.name}: ended after 3 frames")
    assert advice in warning
    assert "secret" not in warning


def test_stopping_early_gives_no_warning(tmp_path: Path) -> None:
    source = VideoSource(write_video(tmp_path / "v.avi", count=20))
    with source:
        next(iter(source))
    assert source.warnings == []


@pytest.mark.parametrize("content", [b"", b"just text", bytes(5000)])
def test_a_file_that_is_not_a_video_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"odd\.mp4: OpenCV cannot open it"), VideoSource(tmp_path / "odd.mp4"):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", r"missing\.mp4: no such file"),
        ("missing.jpg", r"missing\.jpg: no such file"),
        ("*.jpg", "no file matches"),
        ("empty", "expected a folder with images"),
    ],
)
def test_a_missing_source_is_an_error_before_any_work(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        open_sources([str(tmp_path / name)])


def test_a_number_is_a_camera_unless_a_file_has_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (camera,) = open_sources(["97"])
    assert camera.name == "camera 97"
    with pytest.raises(SourceError, match="camera 97: OpenCV cannot open it; check that the camera"), camera:
        pass
    write_patch_image(tmp_path / "97.png").rename(tmp_path / "97")
    (file,) = open_sources(["97"])
    assert file.name == "97"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@10.0.0.7:554/live", "rtsp://***@10.0.0.7:554/live"),
        ("rtsp://user:se@cr/et@host/live", "rtsp://***@host/live"),
        ("http://host/video?user=a&password=secret", "http://host/video?***"),
        ("rtsp://host:554/live", "rtsp://host:554/live"),
        ("rtsp://10.0.0.5/live?user=admin&password=p@ss123", "rtsp://10.0.0.5/live?***"),
        ("rtsp://host/cam@1", "rtsp://host/cam@1"),
        ("rtsp://[fe80::1]:554/cam@1", "rtsp://[fe80::1]:554/cam@1"),
        ("rtsp://user:se/cr@host/live", "rtsp://***@host/live"),
        ("rtsp://user:se?cr@host/live", "rtsp://***"),
        ("rtsp://10.0.0.5:554/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp", "rtsp://10.0.0.5:554/***"),
    ],
)
def test_names_show_no_credentials(address: str, shown: str) -> None:
    assert redact(address) == shown
    (source,) = open_sources([address])
    assert source.name == shown
    assert "secret" not in "".join(source.output_names)


def test_errors_and_logs_show_no_credentials(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # A closed port of this machine refuses the connection at once, and no packet leaves the machine.
    (source,) = open_sources(["http://user:secret@127.0.0.1:9/live?token=secret"])
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as caught, source:
        pass
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://admin:geh#eim@127.0.0.1:9/live",
        "rtsp://admin:geh/eim@127.0.0.1:9/live",
        "rtsp://admin:geh?eim@127.0.0.1:9/live",
    ],
)
def test_a_password_that_ends_the_login_is_an_error_with_the_escapes(address: str) -> None:
    with (
        pytest.raises(SourceError, match="write # as %23, / as %2F, \\? as %3F and @ as %40") as error,
        VideoSource(address),
    ):
        pass
    assert "eim" not in str(error.value)


def test_an_address_without_a_login_has_no_such_advice() -> None:
    with pytest.raises(SourceError) as error, VideoSource("rtsp://127.0.0.1:9/live?a=b"):
        pass
    assert "%23" not in str(error.value)
