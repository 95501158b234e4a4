"""What boxes have in common, without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def iou(boxes: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Intersection over union of boxes [..., 4], xyxy, that broadcast as NumPy has it; 0 where both have no area.

    Of each with each, [N, M]: ``iou(boxes[:, None], others)``.
    """
    corner = np.maximum(boxes[..., :2], others[..., :2])
    shared = np.clip(np.minimum(boxes[..., 2:], others[..., 2:]) - corner, 0, None).prod(axis=-1)
    areas = [np.clip(each[..., 2:] - each[..., :2], 0, None).prod(axis=-1) for each in (boxes, others)]
    union = areas[0] + areas[1] - shared
    overlap: npt.NDArray[np.float32] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap
