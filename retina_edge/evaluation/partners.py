"""The agreement of two detectors: the share of sure boxes that have a partner, and their mean displacement.

Detections of nearly equal networks jump. Noise below the rounding of float16 can exchange two candidates whose boxes
overlap, and then NMS keeps the other one, some pixels away. A largest difference would show that one jump and nothing
else. Shares and means barely change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.executor import RawDetections
from retina_edge.data.box_overlap import iou

# Boxes of one class with at least this IoU are partners.
PARTNER_IOU = 0.5
# Boxes without an area, at the edge of an image, have no IoU. They are partners if all corners are this close, pixels.
SAME_PLACE = 0.5


@dataclass(frozen=True, eq=False)
class Partners:
    """The partners of the sure boxes of one detector among the boxes of another.

    Attributes:
        pairs: rows of the sure boxes and of their partners, int64 [N, 2].
        displacements: distance of each pair, the largest difference of a coordinate, pixels, float32 [N].
        sure: number of sure boxes, with or without a partner.
    """

    pairs: npt.NDArray[np.int64]
    displacements: npt.NDArray[np.float32]
    sure: int


def find_partners(
    sure: npt.NDArray[np.float32],
    sure_classes: Sequence[Any] | npt.NDArray[Any],
    boxes: npt.NDArray[np.float32],
    classes: Sequence[Any] | npt.NDArray[Any],
) -> Partners:
    """Pair boxes of the same class that overlap, those that overlap most first. Each box has one partner at most.

    Args:
        sure: boxes of the first detector that score high, float32 [N, 4], xyxy, pixels.
        sure_classes: their classes, N names or numbers.
        boxes: all boxes of the second detector, float32 [M, 4], xyxy, pixels. Pass also those that score low, because a
            score near a threshold would else decide whether a box has a partner.
        classes: their classes.

    Examples:
        >>> sure = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
        >>> partners = find_partners(sure, ["car", "car"], sure[:1] + 1, ["car"])
        >>> partners.pairs.tolist(), partners.displacements.tolist(), partners.sure
        ([[0, 0]], [1.0], 2)
    """
    distance = np.abs(sure[:, None] - boxes[None]).max(axis=-1)
    overlap = np.where(distance <= SAME_PLACE, 1, 0) + iou(sure[:, None], boxes)
    overlap[np.asarray(sure_classes, object)[:, None] != np.asarray(classes, object)[None]] = 0
    rows, columns = np.nonzero(overlap >= PARTNER_IOU)
    taken_rows, taken_columns, pairs = set[int](), set[int](), []
    for index in np.argsort(-overlap[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            pairs.append((row, column))
    found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return Partners(found, np.asarray(distance[found[:, 0], found[:, 1]], np.float32), len(sure))


def sure_partners(found: RawDetections, expected: RawDetections, image: int, *, sure: float) -> Partners:
    """Pair the sure expected detections of one image of a batch with detections that were found, whatever their score.

    Args:
        found, expected: detections of a batch.
        image: index of the image.
        sure: least score of an expected detection that counts.
    """
    count, wanted = int(found.num_detections[image]), int(expected.num_detections[image])
    kept = expected.scores[image, :wanted] >= sure
    boxes, labels = expected.boxes[image, :wanted][kept], expected.labels[image, :wanted][kept]
    return find_partners(boxes, labels, found.boxes[image, :count], found.labels[image, :count])


def agreement(partners: Sequence[Partners]) -> tuple[float | None, float | None]:
    """Return the share of sure boxes with a partner, 0 to 1, and the mean displacement of those, pixels.

    Args:
        partners: partners in each image.

    Returns:
        None for the share if no box is sure, and None for the displacement if no box has a partner.
    """
    sure = sum(each.sure for each in partners)
    displacements = np.concatenate([each.displacements for each in partners]) if partners else np.zeros(0)
    share = len(displacements) / sure if sure else None
    return share, float(displacements.mean()) if len(displacements) else None
