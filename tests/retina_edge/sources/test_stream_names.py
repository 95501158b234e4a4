"""Names of streams: given by the user, derived from the source, and invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.core.errors import SourceError
from retina_edge.sources.stream_names import named_sources
from tests.media import write_patch_image, write_video


def test_names_given_by_the_user() -> None:
    sources = named_sources(["front=rtsp://me:geheim@camera/x?y=1", "yard=0"])
    assert {name: make().name for name, make in sources.items()} == {
        "front": "rtsp://***@camera/x?***",
        "yard": "camera 0",
    }


def test_names_derived_from_the_source(tmp_path: Path) -> None:
    for name in ("a b.mp4", "a=b.mp4", "Übung.mp4"):
        write_video(tmp_path / name, count=1)
    words = ["0", "1", "rtsp://x/a?b=c", "rtsp://x/b", *(str(tmp_path / name) for name in ("a b.mp4", "a=b.mp4"))]
    assert list(named_sources([*words, str(tmp_path / "Übung.mp4")])) == [
        *("camera0", "camera1", "stream", "stream-2", "a-b", "a-b-2", "bung"),
    ]


def test_each_call_makes_a_new_source(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=3)
    (make,) = named_sources([str(video)]).values()
    for _ in range(2):
        with make() as source:
            assert len(list(source)) == 3


def test_each_file_of_a_glob_is_a_stream(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, count=2)
    sources = named_sources([str(tmp_path / "*.mp4")])
    assert {name: Path(make().name).name for name, make in sources.items()} == {"a": "a.mp4", "b": "b.mp4"}


def test_a_folder_of_images_is_one_stream(tmp_path: Path) -> None:
    write_patch_image(tmp_path / "a.png")
    write_patch_image(tmp_path / "b.png")
    (make,) = named_sources([f"all={tmp_path}"]).values()
    with make() as source:
        assert len(list(source)) == 2


@pytest.mark.parametrize("words", [["a=0", "a=1"], ["nowhere.mp4"], ["a=nowhere.mp4"], ["a/b=0"]])
def test_invalid_names_and_sources_are_refused(words: list[str]) -> None:
    with pytest.raises(SourceError):
        named_sources(words)


@pytest.mark.parametrize("name", ["Küche", "front.door", "front door", "", "x" * 33, "a:b", "кухня"])
@pytest.mark.parametrize("source", ["rtsp://me:geheim@camera/x", "0", "nowhere.mp4"])
def test_a_name_with_other_characters_is_refused_with_the_allowed_ones(name: str, source: str) -> None:
    with pytest.raises(
        SourceError, match=r"expected a stream name of 1 to 32 letters \(a-z, A-Z\), digits, _ and -"
    ) as error:
        named_sources([f"{name}={source}"])
    assert str(error.value).startswith(repr(name))
    assert "geheim" not in str(error.value)


def test_an_equals_sign_in_a_source_is_no_name(tmp_path: Path) -> None:
    video = write_video(tmp_path / "tür=1.mp4", count=1)
    words = [
        str(video),
        "http://camera/x?y=1",
        "gst:v4l2src device=/dev/video0",
        "videotestsrc pattern=1 ! videoconvert",
    ]
    assert len(named_sources(words)) == 4
