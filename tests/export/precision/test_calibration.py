"""Tests of the audit of a calibration set, on real images with the typical defects of real folders."""

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
    """A folder with the 16 validation tiles, which a test may change."""
    shutil.copytree(treecrowns / "images", tmp_path / "tiles")
    return tmp_path / "tiles"


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def test_good_images_give_no_findings(calibration_folder: Path) -> None:
    images = audit(files(calibration_folder), read_image)
    assert len(images) == 64
    assert images.findings == ()
    assert list(images.paths) == sorted(files(calibration_folder))


def test_few_images_give_a_finding_and_too_few_are_refused(tiles: Path) -> None:
    assert audit(files(tiles), read_image).findings == (
        "only 16 images: ranges from fewer than 64 images depend on the choice of images",
    )
    assert len(audit(files(tiles)[:MIN_CALIBRATION_IMAGES], read_image)) == MIN_CALIBRATION_IMAGES
    with pytest.raises(
        DataError, match="at least 8 different images as the camera will see them, better 64 to 128, got 7"
    ):
        audit(files(tiles)[: MIN_CALIBRATION_IMAGES - 1], read_image)
    with pytest.raises(DataError, match="got 0"):
        audit([], read_image)


def test_bad_images_are_named_and_skipped(tiles: Path) -> None:
    first, second = sorted(files(tiles))[:2]
    shutil.copy(first, tiles / "copy.jpg")
    # Another file with the same pixels is a duplicate.
    assert cv2.imwrite(str(tiles / "again.png"), read_image(second))
    (tiles / "broken.jpg").write_bytes(first.read_bytes()[:100])
    (tiles / "notes.jpg").write_text("no image")
    assert cv2.imwrite(str(tiles / "lens cap.png"), np.full((300, 400, 3), 4, np.uint8))
    images = audit(files(tiles), read_image)
    assert len(images) == 16
    assert {path.name for path in images.paths}.isdisjoint({"broken.jpg", "notes.jpg", "lens cap.png"})
    assert images.findings == (
        "2 unreadable, skipped: broken.jpg, notes.jpg",
        "1 blank, skipped: lens cap.png",
        f"2 duplicate, skipped: {first.name}, {second.name}",
        "only 16 images: ranges from fewer than 64 images depend on the choice of images",
    )


def test_the_error_for_too_few_images_names_the_skipped_ones(tiles: Path) -> None:
    for path in sorted(files(tiles))[5:]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"got 5; 11 unreadable, skipped: \S+, \S+, \S+ and 8 more"):
        audit(files(tiles), read_image)


def test_images_are_chosen_evenly_from_a_large_folder(calibration_folder: Path) -> None:
    images = audit(files(calibration_folder), read_image, count=16)
    assert [path.stem for path in images.paths] == [f"{number:02}" for number in range(0, 64, 4)]


def test_the_digest_depends_on_the_pixels_and_not_on_the_files(tiles: Path, tmp_path: Path) -> None:
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
    # The last batch is filled up with the first images.
    np.testing.assert_array_equal(np.concatenate(batches), np.concatenate([expected, expected[:2]]))
