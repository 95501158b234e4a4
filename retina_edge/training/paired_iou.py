"""The IoU of pairs of boxes, where torchvision compares each box with each."""

from __future__ import annotations

import torch
from torch import Tensor


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of boxes, float [..., 4] xyxy; 0 for boxes that do not touch.

    Args:
        boxes, others: boxes of the same unit, which broadcast. One box of each pair has an area.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
        >>> paired_iou(boxes, torch.tensor([0.0, 0, 2, 1]))
        tensor([0.5000, 0.5000])
    """
    corner = torch.maximum(boxes[..., :2], others[..., :2])
    shared = (torch.minimum(boxes[..., 2:], others[..., 2:]) - corner).clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)
