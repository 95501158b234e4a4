"""COCO average precision of any detector, with the same code for a checkpoint, an ONNX model and an engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engines.core.errors import DataError, MissingDependencyError
from engines.core.option_checks import check_integer
from retina_edge.data.coco import CocoDataset
from retina_edge.detections import Detections
from retina_edge.detector import Detector

# Number of best detections of an image that count, as in COCO.
MAX_DETECTIONS = 100
# Names of the metrics, in the order of COCOeval's summary.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Evaluation:
    """COCO metrics of one detector on one data set.

    Attributes:
        metrics: value of each of ``METRICS`` by name, 0 to 1; NaN if the data set has no objects of that size.
        per_class: AP by class name; NaN for classes without objects.
        images: number of images.
        detections: number of detections in these images.

    Examples:
        >>> evaluation = Evaluation({"AP": 0.25, "APl": float("nan")}, {"tree": 0.25}, images=1, detections=7)
        >>> evaluation.to_dict()["metrics"]
        {'AP': 0.25, 'APl': None}
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    images: int
    detections: int

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON, with None instead of NaN."""
        values = asdict(self)
        for group in ("metrics", "per_class"):
            values[group] = {name: None if np.isnan(value) else value for name, value in values[group].items()}
        return values


def evaluate(
    detector: Detector,
    dataset: CocoDataset,
    *,
    batch: int = 1,
    max_detections: int = MAX_DETECTIONS,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run the detector on a data set and compute COCO metrics (IoU 0.50:0.95).

    Classes are matched by name, so labels and category ids may differ between model and data set.

    Args:
        detector: any detector.
        dataset: a checked data set.
        batch: number of images in a batch.
        max_detections: number of best detections of an image that count.
        on_image: called after each image, for instance by a progress bar.

    Raises:
        DataError: if no class of the data set is a class of the detector.
        MissingDependencyError: if faster-coco-eval is not installed.
        ValueError: if the batch is below 1.
    """
    return evaluate_detections(
        detect_all(detector, dataset, batch=batch, on_image=on_image), dataset, max_detections=max_detections
    )


def detect_all(
    detector: Detector, dataset: CocoDataset, *, batch: int = 1, on_image: Callable[[], None] = lambda: None
) -> list[Detections]:
    """Run the detector on a data set, and return the detections of each image in the order of the data set.

    Args:
        detector, dataset, batch, on_image: as for ``evaluate``.

    Raises:
        DataError, MissingDependencyError, ValueError: as for ``evaluate``.
    """
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    _coco_tools()  # fail now if the package is missing, not after an hour of detection
    match_categories(detector.contract.class_names, dataset)
    results: list[Detections] = []
    for start in range(0, len(dataset), batch):
        images = [image.read() for image in dataset.images[start : start + batch]]
        # AP counts weak detections, too.
        for detections in detector(images, score=detector.score_threshold):
            results.append(detections)
            on_image()
    return results


def evaluate_detections(
    detections: Sequence[Detections], dataset: CocoDataset, *, max_detections: int = MAX_DETECTIONS
) -> Evaluation:
    """Compute COCO metrics of detections.

    Args:
        detections: detections of each image, in the order of the data set, as from ``detect_all``.
        dataset: a checked data set.
        max_detections: number of best detections of an image that count.

    Raises:
        DataError: if no class of the data set is a class of the detections.
    """
    results: list[dict[str, Any]] = []
    for image, in_image in zip(dataset.images, detections, strict=True):
        categories = match_categories(in_image.class_names, dataset)
        for row, label in zip(in_image.to_coco(image.id), in_image.labels.tolist(), strict=True):
            if label in categories:
                results.append({**row, "category_id": categories[label]})
    return evaluate_results(dataset, results, max_detections=max_detections)


def match_categories(class_names: Sequence[str], dataset: CocoDataset) -> dict[int, int]:
    """Return the data set's category id for each label of a detector, if the data set has a class of the same name.

    Raises:
        DataError: if no class has the same name.

    Examples:
        >>> from pathlib import Path
        >>> dataset = CocoDataset(Path("trees.json"), ("tree", "shrub"), (7, 9), images=())
        >>> match_categories(("bush", "tree"), dataset)
        {1: 7}
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
    """Compute COCO metrics of results in COCO's own format.

    Args:
        dataset: a checked data set.
        results: detections with the keys ``image_id``, ``category_id``, ``bbox`` and ``score``.
        max_detections: number of best detections of an image that count, also in ``AR100``.

    Raises:
        MissingDependencyError: if faster-coco-eval is not installed.
        ContractError: if ``max_detections`` is less than 1.
    """
    # COCOeval computes a wrong AP from other values.
    check_integer("max_detections", max_detections, 1)
    coco, coco_eval = _coco_tools()
    truth = coco(_ground_truth(dataset))
    run = coco_eval(truth, truth.loadRes(results), iouType="bbox")
    run.params.catIds = list(dataset.category_ids)
    run.params.imgIds = [image.id for image in dataset.images]
    run.params.maxDets = [1, 10, max_detections]
    run.evaluate()
    run.accumulate()
    run.summarize()
    # COCOeval returns -1 if the data set has no objects of a size.
    stats = [float(value) if value >= 0 else float("nan") for value in run.stats[: len(METRICS)]]
    precision = run.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all sizes, most detections
    order = sorted(dataset.category_ids)  # COCOeval sorts the classes
    per_class = {}
    for category_id, name in zip(dataset.category_ids, dataset.class_names, strict=True):
        values = precision[:, :, order.index(category_id)]
        values = values[values > -1]
        per_class[name] = float(values.mean()) if values.size else float("nan")
    return Evaluation(dict(zip(METRICS, stats, strict=True)), per_class, len(dataset), len(results))


def _ground_truth(dataset: CocoDataset) -> dict[str, Any]:
    """Return the annotations for COCOeval, which requires ``area`` and ``iscrowd``; many files lack these keys."""
    content = json.loads(dataset.annotations.read_text(encoding="utf-8-sig"))
    annotations = []
    for annotation in content["annotations"]:
        if annotation["id"] in dataset.skipped:
            continue
        width, height = annotation["bbox"][2:]
        annotations.append({"iscrowd": 0, "area": width * height, **annotation})
    return {**content, "annotations": annotations}


def _coco_tools() -> tuple[Any, Any]:
    """Return the classes COCO and COCOeval of faster-coco-eval.

    Raises:
        MissingDependencyError: if the package is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingDependencyError("evaluation needs faster-coco-eval: pip install 'retina-edge[train]'") from error
    return COCO, COCOeval_faster
