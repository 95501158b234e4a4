"""The losses of distillation: how far raw heads and features of a student are from those of its teacher.

Student and teacher have the same anchors and see the same crops, so their outputs match position by position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Heads = tuple[Sequence[Tensor], Sequence[Tensor]]
# Yang et al., arXiv 2111.11837: in one-stage detectors, the background counts half as much as the objects.
BACKGROUND_SHARE = 1 / 3
# A feature with a smaller standard deviation counts as constant. It has no pattern, and dividing by it would only
# enlarge rounding errors.
_CONSTANT = 1e-4


def head_losses(student: Heads, teacher: Heads, num_classes: int) -> tuple[Tensor, Tensor]:
    """Compute the losses of class logits and of box deltas, two scalars.

    The loss of the logits is the cross entropy with the teacher's scores q as targets, weighted by the distance between
    the scores: sum of |p - q| BCE(p, q). This is the quality focal loss (Li et al., arXiv 2006.04388) with an exponent
    of 1, which Wang et al. distill with (CrossKD, arXiv 2306.11369). The loss of the boxes is the L1 distance between
    the deltas, weighted by the square of the teacher's best score at the anchor, because a teacher says nothing about
    boxes where there is no object.

    The focal loss is divided by the number of anchors with an object. In the same way, both losses are divided by the
    sum of these squares, at least 1, in each image. The scores themselves would not do: those of the many anchors
    without an object are small, but not 0, and would be most of their sum.

    Args:
        student, teacher: class logits [N, A * C, h, w] and box deltas [N, A * 4, h, w] of each level.
        num_classes: C.

    Examples:
        One anchor with p = 0.5 and q = 0.9. The cross entropy is ln 2 at p = 0.5, so the loss is 0.4 ln 2:

        >>> logits, sure, deltas = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.1972), torch.zeros(1, 4, 1, 1)
        >>> for loss in head_losses(([logits], [deltas]), ([sure], [deltas]), num_classes=1):
        ...     print(f"{float(loss):.4f}")
        0.2773
        0.0000
    """
    logit_sums, box_sums, squares = [], [], []
    for logits, deltas, taught_logits, taught_deltas in zip(*student, *teacher, strict=True):
        logits, targets = _by_anchor(logits, num_classes), _by_anchor(taught_logits, num_classes).sigmoid()
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        logit_sums.append(_image_sums((logits.sigmoid() - targets).abs() * entropy))
        square = targets.amax(2, keepdim=True).square()
        box_sums.append(_image_sums(square * (_by_anchor(deltas, 4) - _by_anchor(taught_deltas, 4)).abs()))
        squares.append(_image_sums(square))
    count = torch.stack(squares).sum(0).clamp(min=1)
    of_logits, of_boxes = ((torch.stack(sums).sum(0) / count).mean() for sums in (logit_sums, box_sums))
    return of_logits, of_boxes


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], boxes: Sequence[Tensor], stride: int) -> Tensor:
    """Compute the loss of the features, a scalar from 0 to 2: 1 minus their correlation, averaged over all channels.

    Pearson's correlation compares patterns and ignores scale and offset (Cao et al., PKD, arXiv 2207.02039). Each
    channel of each level is standardized over the positions of the batch, which ``object_weights`` weights.

    Args:
        student, teacher: features [N, C, h, w] of each level, finest first.
        boxes: boxes of the objects of each image, float [M, 4] xyxy, input pixels.
        stride: stride of the finest level, input pixels.

    Examples:
        >>> features = [torch.rand(2, 3, 4, 4)]
        >>> boxes = [torch.tensor([[0.0, 0, 16, 16]]), torch.zeros(0, 4)]
        >>> float(feature_loss(features, [5 * features[0] + 7], boxes, stride=8)) < 1e-6
        True
    """
    height, width = student[0].shape[-2:]
    levels = object_weights(boxes, (height, width), stride, len(student))
    losses = [
        (_standardized(own, weights) - _standardized(taught, weights)).square().sum() / (2 * own.shape[1])
        for own, taught, weights in zip(student, teacher, levels, strict=True)
    ]
    return torch.stack(losses).mean()


def object_weights(boxes: Sequence[Tensor], size: tuple[int, int], stride: int, levels: int) -> list[Tensor]:
    """Return the weights of the positions of each level, float32 [N, 1, h, w]; those of a level have the sum 1.

    As in Yang et al. (FGD, arXiv 2111.11837, equations 2 to 5), a position inside an object has the inverse of the
    object's area, so that small objects count as much as large ones, and where objects overlap, the smallest counts. A
    position belongs to an object if it overlaps it in any part. The background has a share of the weights, or all of
    them in a batch without objects.

    Args:
        boxes: boxes of the objects of each image, float [M, 4] xyxy, input pixels.
        size: (height, width) of the finest level.
        stride: stride of the finest level, input pixels; each further level has twice the stride of the one before.
        levels: number of levels.

    Examples:
        >>> object_weights([torch.tensor([[0.0, 0, 8, 16]])], (2, 2), stride=8, levels=1)[0].flatten()
        tensor([0.3333, 0.1667, 0.3333, 0.1667])
    """
    finest = torch.stack([_inverse_areas(each.float() / stride, size) for each in boxes])[:, None]
    weights = []
    for _ in range(levels):
        inside = finest > 0
        objects, background = finest / finest.sum().clamp(min=1e-12), ~inside / (~inside).sum().clamp(min=1)
        # The share is 0 or 1 if there is only one kind of position.
        share = torch.where(inside.all(), 0.0, torch.where(inside.any(), BACKGROUND_SHARE, 1.0))
        weights.append((1 - share) * objects + share * background)
        finest = F.max_pool2d(finest, 2, ceil_mode=True)  # a coarser level rounds its size up
    return weights


def _inverse_areas(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the inverse area of the smallest box at each position of a map, float [h, w]; 0 outside of boxes.

    Args:
        boxes: boxes, float [M, 4] xyxy, positions of the map.
        size: (height, width) of the map.
    """
    inverse = boxes.new_zeros(size)
    if len(boxes):
        columns, rows = (torch.arange(length, device=boxes.device) for length in (size[1], size[0]))
        x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
        across, down = (columns + 1 > x1) & (columns < x2), (rows + 1 > y1) & (rows < y2)
        area = ((x2 - x1) * (y2 - y1)).clamp(min=1)[:, None]  # at least one position
        inverse = ((down[:, :, None] & across[:, None, :]) / area).amax(0)
    return inverse


def _standardized(features: Tensor, weights: Tensor) -> Tensor:
    """Return features [N, C, h, w] with weighted mean 0 and variance 1 of each channel, times the roots of weights.

    The sum of the products of two such maps is then their correlation.
    """
    features = features.float()
    centered = features - (weights * features).sum((0, 2, 3), keepdim=True)
    weighted = weights.sqrt() * centered
    deviations: Tensor = torch.linalg.vector_norm(weighted, dim=(0, 2, 3), keepdim=True)
    return weighted / deviations.clamp(min=_CONSTANT)


def _by_anchor(head: Tensor, last: int) -> Tensor:
    """Reshape a raw head [N, A * last, h, w] to float32 [N, A, last, h, w]."""
    return head.float().view(len(head), -1, last, *head.shape[2:])


def _image_sums(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)
