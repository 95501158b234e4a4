"""The share of detections on which two detectors agree.

``agreement`` counts all detections with narrow tolerances: a swap of overlapping boxes in NMS costs one of hundreds.
``sure_agreement`` counts only sure boxes, by the partners of ``retina_edge.evaluation.partners``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_edge.evaluation import partners

# Tolerances that allow for the 10 bits of TF32. An IoU of 0.9 is half a pixel on each side of a box of 16 pixels.
IOU, SCORE = 0.9, 0.02
# Boxes are sure if they score at least this. Random heads rarely score 0.5; it is twice the threshold of the models.
SURE = 0.1
# Corners this close are the same place, too: a box without an area, at the edge of the frame, has no IoU.
PIXELS = 0.5


@dataclass(frozen=True)
class FrameDetections:
    """The detections in one frame, as plain arrays.

    Attributes:
        boxes: boxes, float32 [N, 4], xyxy, frame pixels.
        scores: scores, float32 [N].
        labels: indices of the classes, int [N].
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.scores)


def agreement(actual: FrameDetections, expected: FrameDetections) -> float:
    """Return the share of detections that both sets contain, from 0 to 1; it is 1 if both sets are empty.

    Two detections are the same if they have the same label, an IoU of at least 0.9, and scores at most 0.02 apart. Each
    detection is matched once.
    """
    most = max(len(actual), len(expected))
    if not len(actual) or not len(expected):
        return float(most == 0)
    same = (
        _same_place(actual.boxes, expected.boxes)
        & (actual.labels[:, None] == expected.labels[None])
        & (np.abs(actual.scores[:, None] - expected.scores[None]) <= SCORE)
    )
    # Match the nearest scores, so that neighbors of one class do not take each other's partner.
    distance = np.where(same, np.abs(actual.scores[:, None] - expected.scores[None]), np.inf)
    matched = 0
    for row in range(len(actual)):
        column = int(np.argmin(distance[row]))
        if np.isfinite(distance[row, column]):
            matched += 1
            distance[:, column] = np.inf
    return matched / most


def sure_agreement(actual: FrameDetections, expected: FrameDetections) -> tuple[float | None, float | None]:
    """Return the share of sure expected boxes with a partner, 0 to 1, and the mean displacement of those, pixels.

    Returns:
        None for the share if no box is sure, and None for the displacement if no box has a partner.
    """
    sure = expected.scores >= SURE
    found = partners.find_partners(expected.boxes[sure], expected.labels[sure], actual.boxes, actual.labels)
    return partners.agreement([found])


def _same_place(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Compare boxes [N, 4] with boxes [M, 4]; return bool [N, M], True for two boxes in the same place."""
    left, right = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    area, other_area = (np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (left, right))
    union = area + other_area - common
    overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    near: npt.NDArray[np.bool_] = np.abs(left - right).max(axis=-1) <= PIXELS
    result: npt.NDArray[np.bool_] = (overlap >= IOU) | near
    return result
