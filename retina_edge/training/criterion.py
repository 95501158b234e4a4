"""The losses of a RetinaNet, computed by torchvision's matcher and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from retina_edge.data.augment import Target
from retina_edge.model.retinanet import RetinaNet

# arXiv 1708.02002, section 4: an anchor is assigned to an object from an IoU of 0.5, is background below 0.4, and is
# ignored in between. The focal loss has alpha 0.25 and gamma 2, the defaults of torchvision's sigmoid_focal_loss.
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4


class RetinaNetCriterion:
    """The focal loss and the box loss of raw heads.

    Args:
        model: model that computes the raw heads; its anchors and its kind of box loss are used.

    Examples:
        >>> from retina_edge.model.config import ModelConfig
        >>> model = RetinaNet(ModelConfig(num_classes=2, backbone="resnet18", fpn_channels=32, head_depth=1))
        >>> target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}
        >>> losses = RetinaNetCriterion(model)(model(torch.zeros(1, 3, 64, 64)), [target], (64, 64))
        >>> sorted(losses)
        ['bbox_regression', 'classification']
    """

    def __init__(self, model: RetinaNet) -> None:
        self._head = model.head
        self._anchor_generator = model.anchor_generator
        self._matcher = Matcher(FOREGROUND_IOU, BACKGROUND_IOU, allow_low_quality_matches=True)

    def __call__(
        self,
        heads: tuple[Sequence[Tensor], Sequence[Tensor]],
        targets: Sequence[Target],
        input_size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Compute the losses: scalars named ``classification`` and ``bbox_regression``.

        Args:
            heads: raw heads of ``RetinaNet``: class logits [N, A * C, h, w] and box deltas [N, A * 4, h, w] of each
                level.
            targets: ``boxes``, float [M, 4] xyxy in input pixels, and ``labels``, int64 [M], of each image.
            input_size: (height, width) of the images that the heads were computed from, pixels.
        """
        logits, deltas = ([level.float() for level in head] for head in heads)
        batch = len(targets)
        # The anchor generator only reads the size of the images.
        blank = logits[0].new_empty((0, 3, *input_size))
        anchors = self._anchor_generator(ImageList(blank, [input_size] * batch), logits)
        outputs = {
            "cls_logits": _flatten(logits, self._head.classification_head.num_classes),
            "bbox_regression": _flatten(deltas, 4),
        }
        matches = [self._match(target["boxes"], anchors[n]) for n, target in enumerate(targets)]
        losses: dict[str, Tensor] = self._head.compute_loss(targets, outputs, anchors, matches)
        return losses

    def _match(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return the index of the box of each anchor, int64 [anchors]; a constant of ``Matcher`` if it has no box."""
        if len(boxes) == 0:
            return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.int64, device=anchors.device)
        matched: Tensor = self._matcher(box_iou(boxes, anchors))
        return matched


def _flatten(levels: Sequence[Tensor], last: int) -> Tensor:
    """Convert raw heads, [N, A * last, h, w] of each level, to the layout of torchvision's loss: [N, anchors, last]."""
    return torch.cat([_split_channels(level, last).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in levels], 1)


def _split_channels(level: Tensor, last: int) -> Tensor:
    """Reshape [N, A * last, h, w] to [N, A, last, h, w]."""
    return level.view(level.shape[0], -1, last, *level.shape[2:])
