"""COCO average precision of any detector, with the same code for a checkpoint, an ONNX model and an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engines.core.errors import DataError, MissingDependencyError
from engines.core.option_checks import check_integer
from retina_edge.data.dataset import DetectionDataset
from retina_edge.detections import Detections
from retina_edge.detector import Detector

# Number of best detections of an image that count, as in COCO.
MAX_DETECTIONS = 100
# Images, objects and classes are numbered from here for COCOeval, which takes the id 0 of an object for none.
FIRST_ID = 1
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
    dataset: DetectionDataset,
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
    detector: Detector, dataset: DetectionDataset, *, batch: int = 1, on_image: Callable[[], None] = lambda: None
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
    match_labels(detector.contract.class_names, dataset)
    results: list[Detections] = []
    for start in range(0, len(dataset), batch):
        images = [image.read(detector.contract.bit_depth) for image in dataset.images[start : start + batch]]
        # AP counts weak detections, too.
        for detections in detector(images, score=detector.score_threshold):
            results.append(detections)
            on_image()
    return results


def evaluate_detections(
    detections: Sequence[Detections], dataset: DetectionDataset, *, max_detections: int = MAX_DETECTIONS
) -> Evaluation:
    """Compute COCO metrics of detections.

    Args:
        detections: detections of each image, in the order of the data set, as from ``detect_all``.
        dataset: a checked data set.
        max_detections: number of best detections of an image that count.

    Raises:
        DataError: if no class of the data set is a class of the detections.
        MissingDependencyError: if faster-coco-eval is not installed.
        ContractError: if ``max_detections`` is less than 1.
    """
    run, results = _run_coco(detections, dataset, max_detections)
    run.summarize()
    # COCOeval returns -1 if the data set has no objects of a size.
    stats = [float(value) if value >= 0 else float("nan") for value in run.stats[: len(METRICS)]]
    precision = run.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], all sizes, most detections
    per_class = {}
    for label, name in enumerate(dataset.class_names):
        values = precision[:, :, label]
        values = values[values > -1]
        per_class[name] = float(values.mean()) if values.size else float("nan")
    return Evaluation(dict(zip(METRICS, stats, strict=True)), per_class, len(dataset), results)


def precision_curves(detections: Sequence[Detections], dataset: DetectionDataset) -> dict[str, list[float]]:
    """Return the precision at each recall of 0, 0.01 ... 1, by class, for boxes with an IoU of at least 0.5.

    The precision is the highest one at this recall or a higher one, and 0 at a recall that is not reached, as COCOeval
    interpolates it. Its mean is the AP50 of the class. Classes without objects are left out.

    Args:
        detections, dataset: as for ``evaluate_detections``.

    Raises:
        DataError, MissingDependencyError: as for ``evaluate_detections``.

    Examples:
        >>> from retina_edge.data.load import load_dataset
        >>> data = load_dataset("tests/data/treecrowns/val.json", None)
        >>> set(precision_curves([Detections.empty(["tree"], [1])] * len(data), data)["tree"])
        {0.0}
    """
    run, _ = _run_coco(detections, dataset, MAX_DETECTIONS)
    precision = run.eval["precision"][0, :, :, 0, -1]  # [recall, class] at the first IoU, which is 0.5
    curves = {name: precision[:, label].tolist() for label, name in enumerate(dataset.class_names)}
    return {name: curve for name, curve in curves.items() if min(curve) > -1}


def _run_coco(detections: Sequence[Detections], dataset: DetectionDataset, max_detections: int) -> tuple[Any, int]:
    """Return COCOeval after its accumulation, and the number of detections that it was given."""
    # COCOeval computes a wrong AP from other values.
    check_integer("max_detections", max_detections, 1)
    results: list[dict[str, Any]] = []
    for number, in_image in enumerate(detections, FIRST_ID):
        labels = match_labels(in_image.class_names, dataset)
        for row, label in zip(in_image.to_coco(number), in_image.labels.tolist(), strict=True):
            if label in labels:
                results.append({**row, "category_id": labels[label] + FIRST_ID})
    coco, coco_eval = _coco_tools()
    truth = coco(_ground_truth(dataset))
    run = coco_eval(truth, truth.loadRes(results), iouType="bbox")
    run.params.maxDets = [1, 10, max_detections]
    run.evaluate()
    run.accumulate()
    return run, len(results)


def match_labels(class_names: Sequence[str], dataset: DetectionDataset) -> dict[int, int]:
    """Return the data set's label for each label of a detector, if the data set has a class of the same name.

    Raises:
        DataError: if no class has the same name.

    Examples:
        >>> from pathlib import Path
        >>> dataset = DetectionDataset(Path("trees.json"), ("tree", "shrub"), (7, 9), images=())
        >>> match_labels(("bush", "tree"), dataset)
        {1: 0}
    """
    labels = {name: label for label, name in enumerate(dataset.class_names)}
    matched = {label: labels[name] for label, name in enumerate(class_names) if name in labels}
    if not matched:
        raise DataError(
            f"{dataset.annotations}: no category is a class of the model: expected some of "
            f"{', '.join(class_names[:10])}, got {', '.join(dataset.class_names[:10])}; rename the categories"
        )
    return matched


def _ground_truth(dataset: DetectionDataset) -> dict[str, Any]:
    """Return the objects for COCOeval, with numbers of our own."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(dataset.images, FIRST_ID):
        labels = (*image.labels.tolist(), *image.crowd_labels.tolist())
        for index, (label, (*bbox, area)) in enumerate(zip(labels, image.truth.tolist(), strict=True)):
            annotations.append(
                {
                    "id": len(annotations) + FIRST_ID,
                    "image_id": number,
                    "category_id": label + FIRST_ID,
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(index >= len(image.labels)),
                }
            )
    return {
        "images": [{"id": number} for number in range(FIRST_ID, len(dataset) + FIRST_ID)],
        "categories": [{"id": label + FIRST_ID, "name": name} for label, name in enumerate(dataset.class_names)],
        "annotations": annotations,
    }


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
