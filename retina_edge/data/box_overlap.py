"""What boxes have in common, without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def iou(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersection over union of boxes [..., 4], xyxy, that broadcast as NumPy has it; 0 where both have no area.

    Of each with each, [N, M]: ``iou(boxes[:, None], others)``.
    """
    shared = _shared(boxes, others)
    return _ratio(shared, _area(boxes) + _area(others) - shared)


def share_inside(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of the area of boxes [..., 4], xyxy, the share that lies in others, 0 where there is no area."""
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
