"""The overlap of boxes in NumPy, without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def iou(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the intersection over union of boxes [..., 4], xyxy; 0 if both boxes have no area.

    The two arrays broadcast as usual in NumPy: ``iou(boxes[:, None], others)`` compares each box of [N, 4] with each
    box of [M, 4] and returns [N, M].

    Examples:
        >>> boxes = np.array([[0, 0, 2, 2], [0, 0, 1, 1]], np.float32)
        >>> iou(boxes, np.array([0, 0, 2, 1], np.float32))
        array([0.5, 0.5], dtype=float32)
    """
    shared = _shared(boxes, others)
    return _ratio(shared, _area(boxes) + _area(others) - shared)


def share_inside(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the share of the area of boxes [..., 4], xyxy, that lies inside other boxes; 0 for a box without area.

    The two arrays broadcast as usual in NumPy.

    Examples:
        >>> share_inside(np.array([[0, 0, 4, 4]], np.float32), np.array([[0, 0, 2, 2]], np.float32))
        array([0.25], dtype=float32)
    """
    shared = _shared(boxes, others)
    return _ratio(shared, np.broadcast_to(_area(boxes), shared.shape))


def _shared(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    corner = np.maximum(boxes[..., :2], others[..., :2])
    area: npt.NDArray[np.float32] = np.clip(np.minimum(boxes[..., 2:], others[..., 2:]) - corner, 0, None).prod(axis=-1)
    return area


def _area(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    area: npt.NDArray[np.float32] = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1)
    return area


def _ratio(part: npt.NDArray[np.float32], whole: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    ratio: npt.NDArray[np.float32] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return ratio
