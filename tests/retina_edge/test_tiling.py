"""Tiles: they cover the image, each box belongs to one tile, and a large image has the AP of its parts."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.contract import DetectorContract
from engines.core.errors import RetinaEdgeError
from engines.core.executor import HostExecutor, RawDetections
from retina_edge import detect, evaluate
from retina_edge.assets import FOREST, MODEL
from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.data.load import load_dataset
from retina_edge.detections import Detections
from retina_edge.detector import Detector
from retina_edge.evaluation import coco_metrics as evaluation
from retina_edge.tiling import TiledDetector, tile_layout
from tests.stand_in import contract

TILE = (64, 96)


class Squares(HostExecutor):
    """An executor that finds every white square, also a part of one at the edge; larger squares have higher scores."""

    def __init__(self, contract: DetectorContract, *, batch: int | None = None) -> None:
        self.contract, self.batch = contract, batch
        self.batches: list[int] = []

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        self.batches.append(len(images))
        most = 50
        raw = RawDetections(
            np.zeros(len(images), np.int32),
            np.zeros((len(images), most, 4), np.float32),
            np.zeros((len(images), most), np.float32),
            np.zeros((len(images), most), np.int32),
        )
        for n, image in enumerate(images):
            count, _, stats, _ = cv2.connectedComponentsWithStats((image.min(axis=2) > 127).astype(np.uint8))
            squares = sorted(stats[1:count].tolist(), key=lambda row: -row[4])
            raw.num_detections[n] = len(squares)
            for i, (x, y, width, height, area) in enumerate(squares):
                raw.boxes[n, i] = x, y, x + width, y + height
                raw.scores[n, i] = 0.1 + 0.8 * area / (area + 500)
        return raw

    def close(self) -> None: ...


def tiled(overlap: int = 20, *, batch: int | None = None, fixed: int | None = None) -> TiledDetector:
    return TiledDetector(Detector(Squares(contract(), batch=fixed)), overlap=overlap, batch=batch)


def draw_squares(
    size: tuple[int, int], corners: list[tuple[int, int]], sides: list[int]
) -> tuple[npt.NDArray[np.uint8], list[list[float]]]:
    """Return an image with white squares at corners (x, y), and their boxes."""
    frame = np.zeros((*size, 3), np.uint8)
    for (x, y), side in zip(corners, sides, strict=True):
        frame[y : y + side, x : x + side] = 255
    boxes = [[x, y, x + side, y + side] for (x, y), side in zip(corners, sides, strict=True)]
    return frame, [list(map(float, box)) for box in boxes]


@pytest.mark.parametrize("size", [(64, 96), (30, 40), (65, 96), (64, 97), (500, 700), (1000, 50), (63, 4000)])
@pytest.mark.parametrize("overlap", [0, 1, 20, 63])
def test_tiles_cover_the_image_overlap_and_own_disjoint_shares(size: tuple[int, int], overlap: int) -> None:
    tiles = tile_layout(size, TILE, overlap)
    covered = np.zeros(size, int)
    for tile in tiles:
        assert (tile.bottom - tile.top, tile.right - tile.left) == (min(size[0], 64), min(size[1], 96))
        covered[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert covered.min() == 1 if len(tiles) > 1 and overlap == 0 else covered.min() >= 1
    random = np.random.default_rng(0)
    for y, x in random.uniform((0, 0), size, (200, 2)):
        owners = [tile for tile in tiles if tile.share[0] <= y < tile.share[2] and tile.share[1] <= x < tile.share[3]]
        assert len(owners) == 1
        (owner,) = owners
        # An object that reaches at most half an overlap from its center lies completely inside the tile of its center.
        reach = (overlap - 1) / 2
        assert owner.top <= max(0, y - reach)
        assert owner.bottom >= min(size[0], y + reach)
        assert owner.left <= max(0, x - reach)
        assert owner.right >= min(size[1], x + reach)


def test_an_image_no_larger_than_a_tile_is_one_tile() -> None:
    (tile,) = tile_layout((64, 90), TILE, 20)
    assert (tile.top, tile.left, tile.bottom, tile.right) == (0, 0, 64, 90)
    assert tile.share == (-math.inf, -math.inf, math.inf, math.inf)


@pytest.mark.parametrize("seed", range(8))
def test_each_object_is_found_once_and_completely(seed: int) -> None:
    """Objects are smaller than the overlap and lie anywhere, also across borders of tiles."""
    random = np.random.default_rng(seed)
    places = [(x, y) for x in range(0, 380, 28) for y in range(0, 280, 28)]
    corners, sides = [], []
    for x, y in places:
        side = int(random.integers(2, 20))
        corners.append((x + int(random.integers(0, 27 - side)), y + int(random.integers(0, 27 - side))))
        sides.append(side)
    frame, expected = draw_squares((290, 400), corners, sides)
    detections = tiled(overlap=20)(frame, score=0.05)
    assert sorted(detections.boxes.tolist()) == sorted(expected)
    assert (np.diff(detections.scores) <= 0).all()


def test_duplicates_on_a_border_are_merged() -> None:
    """Two tiles find an object on a border of shares, a pixel apart: NMS keeps the one with the higher score.

    If the two have different classes, only class-agnostic NMS removes one.
    """
    tiles = tile_layout((64, 172), TILE, 20)
    assert len(tiles) == 2
    border = tiles[0].share[3]
    detector = tiled()

    def detection_at(x: float, left: int, score: float) -> Detections:
        box = np.array([[x - 8 - left, 10, x + 8 - left, 26]], np.float32)
        return Detections(box, np.array([score], np.float32), np.zeros(1, np.int32), ("patch", "other"), (7, 8))

    close = [detection_at(border - 0.5, tiles[0].left, 0.6), detection_at(border + 0.5, tiles[1].left, 0.7)]
    merged = detector._merge(tiles, close, (64, 172))
    assert merged.scores.tolist() == [pytest.approx(0.7)]
    close[0] = dataclasses.replace(close[0], labels=np.ones(1, np.int32))
    assert len(detector._merge(tiles, close, (64, 172))) == 2
    agnostic = TiledDetector(Detector(Squares(dataclasses.replace(contract(), agnostic=True))), overlap=20)
    assert agnostic._merge(tiles, close, (64, 172)).labels.tolist() == [0]
    apart = [detection_at(border - 12, tiles[0].left, 0.6), detection_at(border + 12, tiles[1].left, 0.7)]
    assert len(detector._merge(tiles, apart, (64, 172))) == 2


def test_images_of_several_sizes_share_batches() -> None:
    first, boxes = draw_squares((64, 300), [(10, 10), (200, 30)], [9, 12])
    empty, _ = draw_squares((400, 300), [], [])
    small, box = draw_squares((20, 20), [(3, 4)], [5])
    detector = tiled(batch=3)
    results = detector([first, empty, small], score=0.05)
    assert [sorted(detections.boxes.tolist()) for detections in results] == [sorted(boxes), [], box]
    batches = detector.executor.batches  # type: ignore[attr-defined]
    assert set(batches[:-1]) == {3}
    assert sum(batches) == len(tile_layout((64, 300), TILE, 20)) + len(tile_layout((400, 300), TILE, 20)) + 1
    fixed = tiled(fixed=4)
    assert sorted(fixed(first, score=0.05).boxes.tolist()) == sorted(boxes)
    assert set(fixed.executor.batches) == {4}  # type: ignore[attr-defined]
    assert fixed.choose_batch(None) == 1


def test_impossible_overlaps_batches_and_images_are_refused() -> None:
    with pytest.raises(RetinaEdgeError, match="overlap: expected 0 to less than a side of the tile of 64x96 pixels"):
        tiled(overlap=64)
    with pytest.raises(RetinaEdgeError, match="batch: expected 4, got 3"):
        tiled(fixed=4, batch=3)
    with pytest.raises(RetinaEdgeError, match="one image at a time"):
        tiled().choose_batch(2)
    with pytest.raises(ValueError, match="expected an image"):
        tiled()(np.zeros((4, 4), np.float32))


def test_tiles_find_more_objects_in_a_large_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detections = {}
    for name, options in (("whole", []), ("tiles", ["--tile", "input", "--overlap", "100"])):
        output = tmp_path / f"{name}.jsonl"
        assert detect.main([str(MODEL), str(FOREST), "--json", str(output), *options]) == 0
        (line,) = output.read_text().splitlines()
        detections[name] = json.loads(line)["detections"]
    assert len(detections["tiles"]) > 2 * len(detections["whole"])
    for wrong, message in (
        (["--overlap", "9"], "--overlap needs --tile HxW"),
        (["--tile", "9"], "expected HEIGHTxWIDTH in pixels"),
        (["--tile", "input", "--overlap", "-1"], "expected a whole number of 0 or more"),
    ):
        with pytest.raises(SystemExit):
            detect.main([str(MODEL), str(FOREST), *wrong])
        assert message in capsys.readouterr().err
    assert detect.main([str(MODEL), str(FOREST), "--tile", "100x200", "--overlap", "100"]) == 1
    assert "overlap: expected 0 to less than a side of the tile of 100x200" in capsys.readouterr().err


@pytest.mark.slow
def test_a_large_image_is_evaluated_in_tiles(
    treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of the data set, side by side in one large image, have the same AP50 in tiles as on their own."""
    dataset = load_dataset(treecrowns / "val.json", treecrowns / "images")
    images = [image for image in dataset.images if image.size == (400, 400)][:6]
    mosaic = np.concatenate([image.read() for image in images], axis=1)
    cv2.imwrite(str(tmp_path / "mosaic.png"), mosaic)
    boxes = [box + np.array([400 * i, 0, 400 * i, 0]) for i, image in enumerate(images) for box in image.boxes]
    content = {
        "images": [{"id": 1, "file_name": "mosaic.png", "width": mosaic.shape[1], "height": 400}],
        "categories": [{"id": 1, "name": "tree"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": [float(x), float(y), float(x2 - x), float(y2 - y)]}
            for n, (x, y, x2, y2) in enumerate(boxes, 1)
        ],
    }
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(content))
    common = [str(MODEL), str(labels), "--images", str(tmp_path)]
    measured = {}
    for name, options in (
        ("whole", []),
        ("tiles", ["--tile", "400x400", "--overlap", "0", "--max-detections", "500"]),
        ("100 of them", ["--tile", "400x400", "--overlap", "0", "--max-detections", "20"]),
    ):
        assert evaluate.main([*common, "--json", str(tmp_path / "result.json"), *options]) == 0
        measured[name] = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert f"an image has {len(boxes)} objects, but only 20 boxes of an image count" in " ".join(
        capsys.readouterr().out.split()
    )
    apart = dataclasses.replace(dataset, images=tuple(images), annotations=_only(dataset, images, tmp_path))
    with Detector.load(MODEL) as detector:
        expected = evaluation.evaluate(detector, apart).metrics
    assert measured["tiles"]["AP50"] == pytest.approx(expected["AP50"], abs=0.01)
    assert measured["whole"]["AP50"] < 0.5 * expected["AP50"]
    assert measured["100 of them"]["AR100"] < measured["tiles"]["AR100"]


def _only(dataset: DetectionDataset, images: list[LabeledImage], folder: Path) -> Path:
    """Write an annotation file with only some images of a data set, and return its path."""
    content = json.loads(dataset.annotations.read_text())
    ids = {image.id for image in images}
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in ids]
    path = folder / "apart.json"
    path.write_text(json.dumps(content))
    return path
