"""COCO average precision of any detector, by the same code for a checkpoint, an ONNX model and an engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engines.core.errors import DataError, MissingDependencyError
from retina_edge.data.coco import CocoDataset
from retina_edge.detections import Detections
from retina_edge.detector import Detector

# In the order in which COCOeval numbers its summary.
MAX_DETECTIONS = 100
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Evaluation:
    """COCO metrics of one detector on one data set.

    Attributes:
        metrics: ``METRICS`` by name, 0 to 1; NaN where the data set has no object of that kind.
        per_class: AP by class name, NaN for classes without objects.
        images: images measured.
        detections: boxes found in them.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    images: int
    detections: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not a number becomes None."""
        values = asdict(self)
        for group in ("metrics", "per_class"):
            values[group] = {name: None if np.isnan(value) else value for name, value in values[group].items()}
        return values

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2)


def evaluate(
    detector: Detector,
    dataset: CocoDataset,
    *,
    batch: int = 1,
    max_detections: int = MAX_DETECTIONS,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Runs the detector over a data set and computes COCO metrics (IoU 0.50:0.95).

    Classes are matched by name, so label order and category ids may differ between model and data set.

    Args:
        detector: any detector.
        dataset: a checked data set.
        batch: images run together.
        max_detections: best boxes of an image that count.
        on_image: called after each image, for a progress bar.

    Raises:
        DataError: no class of the data set is one of the detector's.
        MissingDependencyError: faster-coco-eval is not installed.
        ValueError: a batch below 1.
    """
    return evaluate_detections(
        detect_all(detector, dataset, batch=batch, on_image=on_image), dataset, max_detections=max_detections
    )


def detect_all(
    detector: Detector, dataset: CocoDataset, *, batch: int = 1, on_image: Callable[[], None] = lambda: None
) -> list[Detections]:
    """What the detector finds in each image of the data set, in its order; arguments and errors of ``evaluate``."""
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    _coco_tools()  # missing, it is better said now than after an hour of detecting
    match_categories(detector.contract.class_names, dataset)
    found: list[Detections] = []
    for start in range(0, len(dataset), batch):
        for detections in detector([image.read() for image in dataset.images[start : start + batch]]):
            found.append(detections)
            on_image()
    return found


def evaluate_detections(
    found: Sequence[Detections], dataset: CocoDataset, *, max_detections: int = MAX_DETECTIONS
) -> Evaluation:
    """COCO metrics of what ``detect_all`` found."""
    results: list[dict[str, Any]] = []
    for image, detections in zip(dataset.images, found, strict=True):
        categories = match_categories(detections.class_names, dataset)
        for row, label in zip(detections.to_coco(image.id), detections.labels.tolist(), strict=True):
            if label in categories:
                results.append({**row, "category_id": categories[label]})
    return evaluate_results(dataset, results, max_detections=max_detections)


def match_categories(class_names: Sequence[str], dataset: CocoDataset) -> dict[int, int]:
    """The data set's category id for each label of a detector whose class name it has.

    Raises:
        DataError: there is none.
    """
    ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    matched = {label: ids[name] for label, name in enumerate(class_names) if name in ids}
    if not matched:
        raise DataError(
            f"{dataset.annotations}: no category is a class of the model: expected some of "
            f"{', '.join(class_names[:10])}, got {', '.join(dataset.class_names[:10])}; rename the categories"
        )
    return matched


def evaluate_results(
    dataset: CocoDataset, results: list[dict[str, Any]], *, max_detections: int = MAX_DETECTIONS
) -> Evaluation:
    """COCO metrics of results in COCO's own form (``image_id``, ``category_id``, ``bbox``, ``score``).

    Args:
        dataset: a checked data set.
        results: what was found.
        max_detections: best boxes of an image that count; ``AR100`` is then of so many.
    """
    coco, coco_eval = _coco_tools()
    truth = coco(_ground_truth(dataset))
    run = coco_eval(truth, truth.loadRes(results), iouType="bbox")
    run.params.catIds = list(dataset.category_ids)
    run.params.imgIds = [image.id for image in dataset.images]
    run.params.maxDets = [1, 10, max_detections]
    run.evaluate()
    run.accumulate()
    run.summarize()
    # COCOeval marks "no such object in the data set" with -1.
    stats = [float(value) if value >= 0 else float("nan") for value in run.stats[: len(METRICS)]]
    precision = run.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all sizes, 100 boxes an image
    order = sorted(dataset.category_ids)  # COCOeval's own
    per_class = {}
    for category_id, name in zip(dataset.category_ids, dataset.class_names, strict=True):
        values = precision[:, :, order.index(category_id)]
        values = values[values > -1]
        per_class[name] = float(values.mean()) if values.size else float("nan")
    return Evaluation(dict(zip(METRICS, stats, strict=True)), per_class, len(dataset), len(results))


def _ground_truth(dataset: CocoDataset) -> dict[str, Any]:
    """The annotation file as COCOeval wants it: area and iscrowd are optional in the wild, not there."""
    content = json.loads(dataset.annotations.read_text(encoding="utf-8-sig"))
    annotations = []
    for annotation in content["annotations"]:
        if annotation["id"] in dataset.skipped:
            continue
        width, height = annotation["bbox"][2:]
        annotations.append({"iscrowd": 0, "area": width * height, **annotation})
    return {**content, "annotations": annotations}


def _coco_tools() -> tuple[Any, Any]:
    """COCO and COCOeval of faster-coco-eval."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingDependencyError("evaluation needs faster-coco-eval: pip install 'retina-edge[train]'") from error
    return COCO, COCOeval_faster
