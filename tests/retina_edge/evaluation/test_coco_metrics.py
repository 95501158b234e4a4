"""COCO metrics, compared with pycocotools, which the project itself does not use."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engines.core.contract import DetectorContract, PyramidLevel
from engines.core.errors import DataError, MissingDependencyError
from engines.core.executor import HostExecutor, RawDetections
from engines.core.letterbox import Letterbox
from retina_edge import Detections, Detector
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.evaluate import main
from retina_edge.evaluation.coco_metrics import METRICS, evaluate, evaluate_detections

# Both compute in double precision, so only the order of summation differs.
TOLERANCE = 1e-9


@pytest.fixture
def dataset(treecrowns: Path) -> DetectionDataset:
    return load_dataset(treecrowns / "val.json", treecrowns / "images")


def detections_of(dataset: DetectionDataset, rows: list[tuple[list[float], float, int]]) -> Detections:
    """Return the detections of one image from boxes (xyxy), scores and labels."""
    boxes = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
    scores, labels = np.array([row[1] for row in rows], np.float32), np.array([row[2] for row in rows], np.int32)
    return Detections(boxes, scores, labels, dataset.class_names, dataset.category_ids)


def noisy_results(dataset: DetectionDataset, seed: int) -> list[Detections]:
    """Return the true boxes with noise, with some of them missing, and with some wrong boxes."""
    generator = np.random.default_rng(seed)
    results = []
    for image in dataset.images:
        moved = image.boxes + generator.normal(0, 4, image.boxes.shape)
        wrong = generator.uniform(0, 400, (8, 4))
        wrong[:, 2:] = wrong[:, :2] + generator.uniform(5, 120, (8, 2))
        boxes = np.concatenate([moved[generator.random(len(moved)) > 0.2], wrong])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        rows = [(box, round(float(generator.random()), 2), 0) for box in boxes.tolist()]  # with ties of scores
        results.append(detections_of(dataset, rows))
    return results


def rows_of(results: list[Detections], dataset: DetectionDataset) -> list[Any]:
    """Return results in COCO's format with the ids of the file."""
    images = zip(dataset.images, results, strict=True)
    return [row for image, detections in images for row in detections.to_coco(int(image.id))]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_pycocotools(dataset: DetectionDataset, seed: int) -> None:
    results = noisy_results(dataset, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotations))
        reference = COCOeval(truth, truth.loadRes(rows_of(results, dataset)), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    ours = evaluate_detections(results, dataset)
    assert 0.05 < ours.metrics["AP"] < 0.9
    for name, expected in zip(METRICS, reference.stats, strict=True):
        assert ours.metrics[name] == pytest.approx(expected, abs=TOLERANCE)
    assert ours.per_class == {"tree": pytest.approx(ours.metrics["AP"], abs=TOLERANCE)}


def test_perfect_results_have_ap_1_and_empty_results_ap_0(dataset: DetectionDataset) -> None:
    perfect = [detections_of(dataset, [(box, 1.0, 0) for box in image.boxes.tolist()]) for image in dataset.images]
    assert evaluate_detections(perfect, dataset).metrics["AP"] == pytest.approx(1.0)
    nothing = evaluate_detections([detections_of(dataset, []) for _ in dataset.images], dataset)
    assert nothing.metrics["AP"] == 0
    assert nothing.detections == 0


class Oracle(HostExecutor):
    """An executor with known answers, to check labels, batches and the mapping of boxes to frame pixels."""

    batch: int | None = None

    def __init__(self, answers: list[npt.NDArray[np.float32]], names: tuple[str, ...], label: int) -> None:
        level = PyramidLevel((12, 12), (32, 32), (32.0,), (1.0,))
        ids = tuple(range(100, 100 + len(names)))
        self.contract = DetectorContract("oracle", (384, 384), names, ids, (level,))
        self.answers, self.label = answers, label

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        size = len(images)
        answers, self.answers = self.answers[:size], self.answers[size:]
        boxes = np.zeros((size, 300, 4), np.float32)
        counts = np.array([len(answer) for answer in answers], np.int32)
        for row, answer in zip(boxes, answers, strict=True):
            row[: len(answer)] = answer
        return RawDetections(
            counts, boxes, np.ones((size, 300), np.float32), np.full((size, 300), self.label, np.int32)
        )

    def close(self) -> None:
        pass


@pytest.mark.parametrize("batch", [1, 5])
def test_classes_are_matched_by_name(dataset: DetectionDataset, batch: int) -> None:
    # The images have several sizes, and all are larger than the network's input.
    answers = [Letterbox.fit(image.size, (384, 384)).to_input(image.boxes) for image in dataset.images]
    seen: list[None] = []
    result = evaluate(
        Detector(Oracle(answers, ("bush", "tree"), 1)), dataset, batch=batch, on_image=lambda: seen.append(None)
    )
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.images == len(seen) == 16
    ignored = evaluate(Detector(Oracle(answers, ("bush", "tree"), 0)), dataset)
    assert ignored.metrics["AP"] == 0
    with pytest.raises(DataError, match="no category is a class of the model: expected some of bush, got tree"):
        evaluate(Detector(Oracle(answers, ("bush",), 0)), dataset)


def test_verb_writes_json(
    checkpoint: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ["--images", str(treecrowns / "images")]
    result = tmp_path / "new folder" / "result.json"
    assert main([str(checkpoint), str(treecrowns / "val.json"), *images, "--json", str(result)]) == 0
    values = json.loads(result.read_text())
    assert set(values["metrics"]) == set(METRICS)
    assert values["images"] == 16
    assert values["metrics"]["APl"] is not None
    assert "AP50" in capsys.readouterr().out
    assert main([str(tmp_path / "none.pt"), str(treecrowns / "val.json"), *images]) == 1
    assert "found no file" in capsys.readouterr().err


def small_dataset(tmp_path: Path, categories: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    """Write a data set of one image of 100 x 100 pixels, and return the annotation file."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 100, 3), np.uint8))
    image = {"id": 1, "file_name": "a.png", "width": 100, "height": 100}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"images": [image], "categories": categories, "annotations": annotations}))
    return path


def annotation(number: int, category_id: int, bbox: list[float]) -> dict[str, Any]:
    """Return a COCO annotation."""
    return {"id": number, "image_id": 1, "category_id": category_id, "bbox": bbox}


def test_each_class_has_its_own_ap(tmp_path: Path) -> None:
    categories = [{"id": 90, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 7, "name": "cow"}]
    path = small_dataset(
        tmp_path, categories, [annotation(1, 90, [10, 10, 30, 30]), annotation(2, 5, [50, 50, 30, 30])]
    )
    dataset = load_dataset(path, tmp_path)
    result = evaluate_detections([detections_of(dataset, [([10, 10, 40, 40], 0.9, 0)])], dataset)
    assert result.per_class["cat"] == pytest.approx(1.0)
    assert result.per_class["dog"] == 0
    assert np.isnan(result.per_class["cow"])
    assert result.to_dict()["per_class"]["cow"] is None


def test_skipped_annotations_do_not_count_as_missed(tmp_path: Path) -> None:
    boxes = [annotation(1, 1, [10, 10, 30, 30]), annotation(2, 1, [10, 10, 0, 30]), annotation(3, 1, [90, 10, 50, 30])]
    path = small_dataset(tmp_path, [{"id": 1, "name": "cat"}], boxes)
    dataset = load_dataset(path, tmp_path, skip_invalid=True)
    results = [detections_of(dataset, [([10, 10, 40, 40], 0.9, 0)])]
    assert evaluate_detections(results, dataset).metrics["AP"] == pytest.approx(1.0)


def test_a_batch_below_one_is_refused(dataset: DetectionDataset) -> None:
    with pytest.raises(ValueError, match="batch: expected at least 1, got -1"):
        evaluate(Detector(Oracle([], ("tree",), 0)), dataset, batch=-1)


def test_a_missing_package_is_reported_at_once(dataset: DetectionDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    seen: list[None] = []
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[train\]'"):
        evaluate(Detector(Oracle([], ("tree",), 0)), dataset, on_image=lambda: seen.append(None))
    assert not seen


@pytest.mark.parametrize("most", [5, 300])
def test_metrics_with_other_maximum_numbers_of_detections_equal_those_of_pycocotools(
    dataset: DetectionDataset, most: int
) -> None:
    """The summary of pycocotools supports only 100 detections, but its tables support any number."""
    results = noisy_results(dataset, 0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotations))
        reference = COCOeval(truth, truth.loadRes(rows_of(results, dataset)), "bbox")
        reference.params.maxDets = [1, 10, most]
        reference.evaluate()
        reference.accumulate()
    precision, recall = reference.eval["precision"], reference.eval["recall"]
    ours = evaluate_detections(results, dataset, max_detections=most)
    assert ours.metrics["AP"] == pytest.approx(precision[..., 0, -1].mean(), abs=TOLERANCE)
    assert ours.metrics["AP50"] == pytest.approx(precision[0, ..., 0, -1].mean(), abs=TOLERANCE)
    assert ours.metrics["AR100"] == pytest.approx(recall[..., 0, -1].mean(), abs=TOLERANCE)


def empty(_: dict[str, Any]) -> dict[str, Any]:
    return {"images": [], "annotations": [], "categories": []}


def without_annotations(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "annotations": []}


def with_other_classes(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "categories": [{**content["categories"][0], "name": "house"}]}


def with_a_missing_image(content: dict[str, Any]) -> dict[str, Any]:
    images = [{**content["images"][0], "file_name": "gone.jpg"}, *content["images"][1:]]
    return {**content, "images": images}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (empty, "expected images, found none"),
        (without_annotations, "expected annotations, found none"),
        (with_other_classes, "no category is a class of the model: expected some of tree, got house"),
        (with_a_missing_image, "gone.jpg"),
    ],
)
def test_an_unusable_data_set_is_refused(
    checkpoint: Path,
    treecrowns: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, result = tmp_path / "val.json", tmp_path / "result.json"
    path.write_text(json.dumps(change(json.loads((treecrowns / "val.json").read_text()))))
    words = [checkpoint, path, "--images", treecrowns / "images", "--json", result]
    assert main([*map(str, words)]) == 1
    assert message in capsys.readouterr().err
    assert not result.exists()


def test_images_without_objects_count_in_the_metrics(
    checkpoint: Path, tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(tiny_coco.read_text())
    bare = content["images"][0]["id"]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] != bare]
    path, result = tmp_path / "val.json", tmp_path / "result.json"
    path.write_text(json.dumps(content))
    words = [checkpoint, path, "--images", treecrowns / "images", "--json", result, "--score", "0.9"]
    assert main([*map(str, words)]) == 0
    values = json.loads(result.read_text())
    assert values["images"] == 4
    assert values["confusion"]["classes"][0]["objects"] == len(content["annotations"])
    assert "boxes that score more than 0.9" in capsys.readouterr().out
