"""FreeAnchor: the likelihood that objects are found and the background is not, without a fixed assignment.

Zhang et al., arXiv 1909.02466. Each object has a bag of anchors, and the network learns which of them detect it. Where
the paper is silent, the constants are those of the authors' program (github.com/zhangxiaosong18/FreeAnchor).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

# Anchors in the bag of an object.
BAG_SIZE = 50
# The paper's t: a predicted box with a smaller IoU is background.
BACKGROUND_IOU = 0.6
# Of the focal loss: the share of the positive bags, and the exponent of the background. Written as a square below.
ALPHA = 0.5
# The paper's beta: the weight of L1 and smooth L1 in the likelihood of a location.
LOCATION_WEIGHT = 0.75
# The authors' box deltas are so many times as large as torchvision's, and their smooth L1 bends at 0.11.
DELTA_SCALES = (10.0, 10.0, 5.0, 5.0)
SMOOTH_L1_BEND = {"l1": 0.0, "smooth_l1": 0.11}
IOU_LOSSES = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
# Logarithm of the largest likelihood. At 0, the odds would be infinite.
_LARGEST = -1e-12
# The smallest distance between an object's best IoU and the threshold, against a division by zero.
_SMALLEST_RANGE = 1e-6
# Pairs of a box and an anchor that are compared at once, so that thousands of objects need no more memory.
_MAX_PAIRS = 2**22


def free_anchor_losses(
    logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor, *, box_coder: Any, box_loss: str
) -> tuple[Tensor, Tensor]:
    """Return the loss of the background and the loss of the objects of one image, scalars.

    The loss of an object is the negative logarithm of the mean-max of P(class) P(location) over its bag, the 50 anchors
    with the largest IoU. P(location) is exp(-0.75 loss) for L1 and smooth L1, as in the paper, and exp(-loss) for the
    losses of IoU. The loss of the background is the focal loss of each score, times the probability that the anchor
    detects no object of that class, which rises with the IoU of its predicted box. As in the authors' program, this
    probability has no gradient.

    Both are divided by the number of objects; the paper divides that of the background also by the size of the bag.
    So the loss of an image does not depend on the batch or the process that it is in.

    Args:
        logits: class logits, float32 [anchors, C].
        deltas: box deltas, float32 [anchors, 4].
        anchors: float32 [anchors, 4] xyxy, input pixels.
        boxes: boxes of the objects, float32 [M, 4] xyxy, input pixels.
        labels: their classes, int64 [M].
        box_coder: torchvision's ``BoxCoder`` of the head.
        box_loss: ``l1``, ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.

    Examples:
        >>> from torchvision.models.detection._utils import BoxCoder
        >>> anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8]])
        >>> found = torch.tensor([[9.0], [-9.0]])  # the first anchor detects the object, the second one nothing
        >>> coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        >>> losses = free_anchor_losses(
        ...     found, torch.zeros(2, 4), anchors, anchors[:1], torch.tensor([0]), box_coder=coder, box_loss="l1"
        ... )
        >>> [round(float(loss), 4) for loss in losses]
        [0.0, 0.0001]
    """
    count = max(1, len(boxes))
    bags = _bags(boxes, anchors)
    size = bags.shape[1]
    members = bags.flatten()
    objects = boxes.repeat_interleave(size, 0)
    location = _location_losses(box_loss, box_coder, deltas[members], anchors[members], objects).view(bags.shape)
    log_likelihoods = (F.logsigmoid(logits[bags, labels[:, None]]) - location).clamp(max=_LARGEST)
    # With odds r = x / (1 - x), the mean-max of n likelihoods x is R / (n + R), where R is the sum of r. Its negative
    # logarithm is log(1 + n / R), which neither underflows nor cancels out.
    log_odds = log_likelihoods - torch.log(-torch.expm1(log_likelihoods))
    positive = F.softplus(math.log(size) - log_odds.logsumexp(1)).sum()

    detecting = _detecting(deltas.detach(), anchors, boxes, labels, box_coder, classes=logits.shape[1])
    scores = logits.sigmoid() * (1 - detecting)
    # The second factor is -log(1 - scores).
    negative = (scores.square() * (F.softplus(logits) - F.softplus(logits + detecting.log()))).sum()
    return (1 - ALPHA) * negative / (size * count), ALPHA * positive / count


def _bags(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the anchors in the bag of each object, int64 [M, n]; n is below ``BAG_SIZE`` if there are fewer."""
    size = min(BAG_SIZE, len(anchors))
    return torch.cat([box_iou(part, anchors).topk(size, dim=1).indices for part in torch.split(boxes, _rows(anchors))])


def _rows(anchors: Tensor) -> int:
    return max(1, _MAX_PAIRS // len(anchors))


def _location_losses(box_loss: str, box_coder: Any, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the negative logarithm of the likelihood of each location, float32 [N], for N anchors and their boxes."""
    if box_loss in IOU_LOSSES:
        losses: Tensor = IOU_LOSSES[box_loss](box_coder.decode_single(deltas, anchors), boxes, reduction="none")
        return losses
    scales = deltas.new_tensor(DELTA_SCALES)
    expected = box_coder.encode_single(boxes, anchors)
    errors = F.smooth_l1_loss(deltas * scales, expected * scales, reduction="none", beta=SMOOTH_L1_BEND[box_loss])
    weighted: Tensor = LOCATION_WEIGHT * errors.sum(1)
    return weighted


def _detecting(
    deltas: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor, box_coder: Any, *, classes: int
) -> Tensor:
    """Return the probability that an anchor detects an object of a class, float32 [anchors, classes].

    It rises linearly with the IoU of the predicted box, from 0 at ``BACKGROUND_IOU`` to 1 at the object's best IoU.
    """
    predicted: Tensor = box_coder.decode_single(deltas, anchors)
    found = predicted.new_zeros((classes, len(anchors)))
    rows = _rows(anchors)
    for part, part_labels in zip(torch.split(boxes, rows), torch.split(labels, rows), strict=True):
        overlaps = box_iou(part, predicted)
        width = (overlaps.amax(1, keepdim=True) - BACKGROUND_IOU).clamp(min=_SMALLEST_RANGE)
        probabilities = ((overlaps - BACKGROUND_IOU) / width).clamp(0, 1)
        found.scatter_reduce_(0, part_labels[:, None].expand_as(probabilities), probabilities, "amax")
    return found.t()
