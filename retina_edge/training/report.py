"""The report of a training run beside its checkpoint: one HTML file with curves, errors, precision and anchors.

It is made from the files of the run and from the detections in the validation images, so it can be made again.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.core.atomic_file import atomic_file
from retina_edge.data.anchor_fit import fit_pyramid, input_boxes
from retina_edge.data.dataset import DetectionDataset
from retina_edge.detections import DEFAULT_SCORE, Detections
from retina_edge.evaluation.coco_metrics import evaluate_detections, precision_curves
from retina_edge.evaluation.confusion import confusion, match_image
from retina_edge.evaluation.error_picture import count_errors, draw_errors
from retina_edge.imaging.image_file import encode_image
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.training.report_page import TrainingReport, WorstImage, page
from retina_edge.training.run_files import report_path

# The images with the most errors are shown: at most so many, with sides of at most so many pixels, as JPEG of this
# quality, and of so many bytes in all, so that the page stays small.
PICTURES, PICTURE_SIDE, PICTURE_QUALITY, PICTURE_BYTES = 12, 640, 80, 1_500_000


def write_report(
    output: Path,
    checkpoint: Checkpoint,
    train_data: DetectionDataset,
    val_data: DetectionDataset,
    detections: Sequence[Detections],
) -> Path:
    """Write ``NAME.report.html`` beside the best checkpoint of a run, and return its path.

    Args:
        output: path of the best checkpoint; the log of the run lies beside it.
        checkpoint: the best checkpoint.
        train_data, val_data: data sets of the run.
        detections: detections of that checkpoint in each validation image, with all scores.

    Raises:
        DataError: if a data set has no objects.
        OSError: if the file cannot be written.
    """
    contract = checkpoint.contract
    boxes = input_boxes(train_data, contract.input_size)
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    report = TrainingReport(
        name=output.name,
        curves=read_log(output.with_suffix(".csv")),
        evaluation=evaluate_detections(detections, val_data),
        confusion=confusion(detections, val_data, DEFAULT_SCORE),
        score=DEFAULT_SCORE,
        precision=precision_curves(detections, val_data),
        worst=worst_images(detections, val_data, contract.bit_depth),
        sizes=np.asarray(sizes, np.float32),
        anchors=[size for level in contract.levels for size in level.anchor_sizes],
        fit=fit_pyramid(boxes, contract.levels),
        recipe=checkpoint.recipe,
    )
    path = report_path(output)
    with atomic_file(path) as file:
        file.write(page(report).encode())
    return path


def read_log(path: Path) -> dict[str, list[float]]:
    """Return the columns of the log of a run by name; NaN for a field that is empty or no number.

    Args:
        path: path of the CSV file; without one, there are no columns.

    Examples:
        >>> read_log(Path("none.csv"))
        {}
    """
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ()) if name is not None}


def worst_images(detections: Sequence[Detections], data: DetectionDataset, bit_depth: int) -> list[WorstImage]:
    """Return the images with the most errors, the worst first; none without an error.

    Args:
        detections: detections in each image, in the order of the data set.
        data: the data set.
        bit_depth: bits that image files of 16 bits use.
    """
    errors = []
    for image, in_image in zip(data.images, detections, strict=True):
        errors.append(count_errors(match_image(in_image, image, data, DEFAULT_SCORE), image, data))
    order = sorted(range(len(data)), key=lambda index: -sum(errors[index]))
    worst: list[WorstImage] = []
    left = PICTURE_BYTES
    for index in [index for index in order if sum(errors[index])][:PICTURES]:
        image = data.images[index]
        picture = draw_errors(
            image, detections[index], data, score=DEFAULT_SCORE, side=PICTURE_SIDE, bit_depth=bit_depth
        )
        jpeg = encode_image(picture, ".jpg", jpeg_quality=PICTURE_QUALITY)
        left -= len(jpeg)
        if left < 0:
            break
        worst.append(WorstImage(image.path.name, *errors[index], jpeg))
    return worst


def _number(text: str | None) -> float:
    try:
        return float(text or math.nan)
    except ValueError:
        return math.nan
