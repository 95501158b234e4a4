"""Whether two detectors found the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# What TF32's 10 bits move: of a box of 16 pixels 0.9 is half a pixel on each side.
IOU, SCORE = 0.9, 0.02
# Boxes without an area, at the edge of the frame, have no IoU.
PIXELS = 0.5


@dataclass(frozen=True)
class Found:
    """Detections in one frame.

    Attributes:
        boxes: float32 [N, 4], xyxy, frame pixels.
        scores: float32 [N].
        labels: int [N].
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.scores)


def agreement(found: Found, expected: Found) -> float:
    """Share of detections that both have, each used once: 1 where all do, and where both found nothing.

    The same is what has the same label, an IoU of at least 0.9, and scores at most 0.02 apart.
    """
    most = max(len(found), len(expected))
    if not len(found) or not len(expected):
        return float(most == 0)
    same = (
        _same_place(found.boxes, expected.boxes)
        & (found.labels[:, None] == expected.labels[None])
        & (np.abs(found.scores[:, None] - expected.scores[None]) <= SCORE)
    )
    # Nearest in score first, so that neighbors of one class do not take each other's partner.
    distance = np.where(same, np.abs(found.scores[:, None] - expected.scores[None]), np.inf)
    matched = 0
    for row in range(len(found)):
        column = int(np.argmin(distance[row]))
        if np.isfinite(distance[row, column]):
            matched += 1
            distance[:, column] = np.inf
    return matched / most


def _same_place(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """bool [N, M] of boxes [N, 4] and [M, 4]."""
    ours, theirs = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    area, other_area = (np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (ours, theirs))
    union = area + other_area - common
    overlap = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    near: npt.NDArray[np.bool_] = np.abs(ours - theirs).max(axis=-1) <= PIXELS
    result: npt.NDArray[np.bool_] = (overlap >= IOU) | near
    return result
