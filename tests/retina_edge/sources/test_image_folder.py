"""Folders and globs of images: their order, their rate, and what is passed over."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.core.errors import ContractError, SourceError
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource
from retina_edge.system.natural_order import natural_order
from tests.media import write_patch_image, write_video


def names_of(*arguments: str) -> list[str]:
    (source,) = open_sources(arguments)
    assert isinstance(source, ImageSource)
    return [path.name for path in source.paths]


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(st.sets(st.integers(0, 10**30), min_size=1), st.sampled_from(["{}.jpg", "img{}", "a-{}_1.png", "٣{}/b7.jpg"]))
def test_numbers_are_in_the_order_of_their_values(numbers: set[int], pattern: str) -> None:
    paths = [Path(pattern.format(number)) for number in sorted(numbers)]
    shuffled = random.Random(0).sample(paths, len(paths))
    assert sorted(shuffled, key=natural_order) == paths


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(st.sets(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), min_size=1))
def test_any_names_have_an_order_that_does_not_depend_on_their_listing(names: set[str]) -> None:
    paths, listed = ([Path(name) for name in order] for order in (sorted(names), sorted(names, reverse=True)))
    assert sorted(paths, key=natural_order) == sorted(listed, key=natural_order)


def test_numbered_images_are_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1, 9, 11):
        write_patch_image(tmp_path / f"{number}.png")
    expected = ["1.png", "2.png", "9.png", "10.png", "11.png"]
    assert names_of(str(tmp_path)) == names_of(str(tmp_path / "*.png")) == expected


def test_videos_of_a_glob_are_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_video(tmp_path / f"cam{number}.mp4", count=1)
    sources = open_sources([str(tmp_path / "*.mp4")])
    assert [Path(source.name).name for source in sources] == ["cam1.mp4", "cam2.mp4", "cam10.mp4"]


def test_images_with_a_rate_have_timestamps(tmp_path: Path) -> None:
    for number in range(3):
        write_patch_image(tmp_path / f"{number}.png")
    for fps, expected in ((None, [None, None, None]), (12.5, [0, 0.08, 0.16])):
        (source,) = open_sources([str(tmp_path)], fps=fps)
        with source:
            assert [frame.timestamp for frame in source] == expected
        assert source.info.fps == fps
    assert source.info.duration == pytest.approx(0.24)


def test_what_is_passed_over_is_one_warning(tmp_path: Path) -> None:
    for name in ("a.png", ".hidden.png"):
        write_patch_image(tmp_path / name)
    for name in ("notes.txt", "b.MP4", "IMG_1.HEIC", "IMG_2.heic", ".DS_Store"):
        (tmp_path / name).touch()
    for name in ("day1", "day2.jpg", ".thumbnails"):
        (tmp_path / name).mkdir()
    (source,) = open_sources([str(tmp_path)])
    with source:
        assert [Path(frame.name).name for frame in source] == ["a.png"]
    (warning,) = source.warnings
    assert warning == (
        f"{tmp_path}: passed over 2 HEIC images (IMG_1.HEIC, IMG_2.heic), which OpenCV cannot read: convert to JPEG, "
        f"for instance with heif-convert or ImageMagick; 2 subfolders (day1, day2.jpg): give '{tmp_path}/**/*.jpg' to "
        "include them; 2 files of another kind (.mp4, .txt)"
    )
    assert source.errors == []


def test_a_folder_with_nothing_else_gives_no_warning(tmp_path: Path) -> None:
    write_patch_image(tmp_path / "a.png")
    (source,) = open_sources([str(tmp_path)])
    assert source.warnings == []


def test_warnings_of_neighboring_folders_are_kept(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_patch_image(tmp_path / folder / "1.png")
        (tmp_path / folder / "2.txt").touch()
    (source,) = open_sources([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [warning.partition(":")[0] for warning in source.warnings] == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize(("name", "expected"), [("a.heic", "1 HEIC image"), ("sub/a.jpg", r"1 subfolder \(sub\)")])
def test_a_folder_without_images_says_what_it_contains(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=f"expected a folder with images.*passed over {expected}"):
        open_sources([str(tmp_path)])


def test_a_file_url_is_a_file(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a b.mp4", count=3)
    (source,) = open_sources([video.as_uri()])
    assert isinstance(source, VideoSource)
    assert (source.name, source.live) == (str(video), False)


@pytest.mark.parametrize("fps", [0, -1, 1001, float("nan"), float("inf"), True, "25"])
def test_a_rate_out_of_range_is_refused(tmp_path: Path, fps: float) -> None:
    write_patch_image(tmp_path / "a.png")
    with pytest.raises(ContractError, match="fps: expected 0 < fps <= 1000, got"):
        open_sources([str(tmp_path)], fps=fps)


@pytest.mark.parametrize("name", ["0", "rtsp://me:geheim@camera/x", "gst:videotestsrc ! videoconvert", "csi://0"])
def test_a_rate_for_a_source_that_is_not_a_file_is_refused(name: str) -> None:
    with pytest.raises(
        SourceError, match=r"fps: expected image files and video files, got .* times of its own"
    ) as error:
        open_sources([name], fps=25)
    assert "geheim" not in str(error.value)
