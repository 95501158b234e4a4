"""All images of a data set are looked at before the work, bad ones are named at once, good ones are remembered."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.core.errors import DataError
from retina_edge.data import image_scan
from retina_edge.data.image_scan import ImageLook, look_at
from retina_edge.data.load import load_dataset
from retina_edge.imaging.image_file import read_image


@pytest.fixture
def data_set(treecrowns: Path, tmp_path: Path) -> Path:
    """A data set with a missing image, a cut one, one that is text, and one of another size."""
    shutil.copytree(treecrowns, tmp_path / "set")
    names = [image["file_name"] for image in json.loads((treecrowns / "val.json").read_text())["images"]]
    images = tmp_path / "set" / "images"
    (images / names[0]).unlink()
    (images / names[1]).write_bytes((images / names[1]).read_bytes()[:-2000])
    (images / names[2]).write_bytes(b"not an image")
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(images / names[3])
    return tmp_path / "set" / "val.json"


def test_all_bad_images_are_named_at_once(data_set: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(data_set)
    text = str(caught.value)
    assert "cannot use 4 of 16 images" in text
    names = [image["file_name"] for image in json.loads(data_set.read_text())["images"]]
    for name, problem in zip(
        names,
        (
            "(the file is missing)",
            "(the image is truncated; copy or download it again)",
            "(expected an image that OpenCV can read, got 12 bytes",
            "(the record says 400x400 pixels (width x height), the file has 400x300",
        ),
        strict=False,
    ):
        assert text.index(name) < text.index(problem)
    assert text.endswith("or leave them out with skip_invalid (--skip-invalid)")


def test_bad_images_are_left_out_only_on_request(data_set: Path) -> None:
    data = load_dataset(data_set, skip_invalid=True)
    assert (len(data), data.left_out) == (12, 4)
    assert "left out: 4 of 16 images" in data.remarks[0]
    assert all(image.read().shape[:2] == image.size for image in data.images)
    for path in (data_set.parent / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="cannot use 16 of 16 images"):
        load_dataset(data_set, data_set.parent / "images", skip_invalid=True)


def test_sizes_count_in_the_upright_picture(tmp_path: Path) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6  # a phone that was held upright
    pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=orientation)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 100, 80, 50]}  # fits only the upright picture
    content = {"categories": [{"id": 1, "name": "cat"}], "annotations": [box]}
    path = tmp_path / "train.json"
    for width, height in ((120, 160), (160, 120)):
        image = {"id": 1, "file_name": "phone.jpg", "width": width, "height": height}
        path.write_text(json.dumps({"images": [image], **content}))
        if width == 120:
            assert load_dataset(path).images[0].size == (160, 120)
        else:
            with pytest.raises(DataError, match=r"phone.jpg.*width and height are exchanged .*EXIF orientation"):
                load_dataset(path)


def test_good_images_are_remembered_until_they_change(
    treecrowns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [Path(shutil.copy(path, tmp_path)) for path in sorted((treecrowns / "images").iterdir())[:3]]
    read: list[Path] = []

    def count(path: Path, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return read_image(path, *arguments, **options)

    monkeypatch.setattr(image_scan, "read_image", count)
    good = [ImageLook((400, 400))] * 3
    assert look_at(paths, name=tmp_path / "a.json") == good
    assert look_at(paths, name=tmp_path / "a.json") == good
    assert sorted(read) == sorted(paths)
    os.utime(paths[1], ns=(1, 1))
    assert look_at(paths, name=tmp_path / "a.json") == good
    assert len(read) == 4
    assert look_at(paths, name=tmp_path / "b.json") == good  # another data set
    assert len(read) == 7
    for memory in (tmp_path / "cache").rglob("*.json"):
        memory.write_text('{"a": [1, 2], "b": [[[')
    assert look_at(paths, name=tmp_path / "a.json") == good
    assert len(read) == 10


@pytest.mark.parametrize("cache", ["/proc/none", ""])
def test_a_look_needs_no_cache(treecrowns: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setattr(Path, "home", staticmethod(_no_home))
    path = sorted((treecrowns / "images").iterdir())[0]
    assert look_at([path], name=Path("a.json")) == [ImageLook((400, 400))]


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_long_look_reports_its_progress(treecrowns: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(image_scan, "REPORT_SECONDS", -1.0)
    lines: list[str] = []
    load_dataset(treecrowns / "val.json", on_message=lines.append)
    assert lines == [f"looked at {done} of 16 images" for done in range(16)]
