"""The audit of a calibration set, on real images made bad in the ways that real folders are."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.core.errors import DataError
from engines.core.letterbox import letterbox_batch
from export.precision.calibration import MIN_CALIBRATION_IMAGES, audit
from retina_edge.imaging.image_file import read_image
from tests import stand_in


@pytest.fixture
def tiles(treecrowns: Path, tmp_path: Path) -> Path:
    """The 16 validation tiles."""
    shutil.copytree(treecrowns / "images", tmp_path / "tiles")
    return tmp_path / "tiles"


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def test_good_images_have_nothing_to_be_said_about_them(calibration_folder: Path) -> None:
    images = audit(files(calibration_folder), read_image)
    assert len(images) == 64
    assert images.findings == ()
    assert list(images.paths) == sorted(files(calibration_folder))


def test_few_are_said_and_too_few_refused(tiles: Path) -> None:
    assert audit(files(tiles), read_image).findings == (
        "only 16 images: ranges from fewer than 64 depend on which they are",
    )
    assert len(audit(files(tiles)[:MIN_CALIBRATION_IMAGES], read_image)) == MIN_CALIBRATION_IMAGES
    with pytest.raises(
        DataError, match="at least 8 different images as the camera will see them, better 64 to 128; found 7"
    ):
        audit(files(tiles)[: MIN_CALIBRATION_IMAGES - 1], read_image)
    with pytest.raises(DataError, match="found 0"):
        audit([], read_image)


def test_bad_images_are_named_and_left_out(tiles: Path) -> None:
    first, second = sorted(files(tiles))[:2]
    shutil.copy(first, tiles / "copy.jpg")
    # The same picture in another file is the same picture.
    assert cv2.imwrite(str(tiles / "again.png"), read_image(second))
    (tiles / "broken.jpg").write_bytes(first.read_bytes()[:100])
    (tiles / "notes.jpg").write_text("no image")
    assert cv2.imwrite(str(tiles / "lens cap.png"), np.full((300, 400, 3), 4, np.uint8))
    images = audit(files(tiles), read_image)
    assert len(images) == 16
    assert {path.name for path in images.paths}.isdisjoint({"broken.jpg", "notes.jpg", "lens cap.png"})
    assert images.findings == (
        "2 unreadable, left out: broken.jpg, notes.jpg",
        "1 blank, left out: lens cap.png",
        f"2 there twice, left out: {first.name}, {second.name}",
        "only 16 images: ranges from fewer than 64 depend on which they are",
    )


def test_what_was_left_out_is_said_when_too_few_are_left(tiles: Path) -> None:
    for path in sorted(files(tiles))[5:]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"found 5; 11 unreadable, left out: \S+, \S+, \S+ and 8 more"):
        audit(files(tiles), read_image)


def test_of_many_some_are_taken_evenly(calibration_folder: Path) -> None:
    images = audit(files(calibration_folder), read_image, count=16)
    assert [path.stem for path in images.paths] == [f"{number:02}" for number in range(0, 64, 4)]


def test_the_digest_is_of_the_pictures(tiles: Path, tmp_path: Path) -> None:
    before = audit(files(tiles), read_image).digest
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(files(tiles))):
        assert cv2.imwrite(str(renamed / f"{number:02}.png"), read_image(path))
    assert audit(files(renamed), read_image).digest == before
    (renamed / "00.png").unlink()
    assert audit(files(renamed), read_image).digest != before


def test_batches_are_letterboxed_by_the_contract(tiles: Path) -> None:
    contract = stand_in.contract(input_size=(64, 128))
    images = audit(files(tiles)[:10], read_image)
    batches = list(images.batches(contract, 4))
    assert [batch.shape for batch in batches] == [(4, 64, 128, 3)] * 3
    expected, _ = letterbox_batch([read_image(path) for path in images.paths], (64, 128))
    # The last batch is filled up from the beginning.
    np.testing.assert_array_equal(np.concatenate(batches), np.concatenate([expected, expected[:2]]))
