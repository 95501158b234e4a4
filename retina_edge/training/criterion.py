"""The losses of a RetinaNet: by default those of torchvision's matcher and head, else those of later papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from retina_edge.data.augment import Target
from retina_edge.model.retinanet import RetinaNet
from retina_edge.training.atss import atss_matches
from retina_edge.training.free_anchor import free_anchor_losses
from retina_edge.training.paired_iou import paired_iou
from retina_edge.training.quality_focal_loss import quality_focal_loss

# arXiv 1708.02002, section 4: an anchor is assigned to an object from an IoU of 0.5, is background below 0.4, and is
# ignored in between. The focal loss has alpha 0.25 and gamma 2, the defaults of torchvision's sigmoid_focal_loss.
FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4


class RetinaNetCriterion:
    """The class loss and the box loss of raw heads.

    As in torchvision, the losses of an image are divided by the number of its positives, which are the anchors that
    learn an object, and averaged over the images. So they do not depend on how images are grouped into batches and
    processes. ``free-anchor`` divides by the number of objects.

    Args:
        model: model that computes the raw heads; its anchors and its kind of box loss are used.
        assigner: which anchors learn which object: ``iou``, ``atss`` (see ``atss_matches``), or ``free-anchor``, which
            has losses of its own (see ``free_anchor_losses``): ``classification`` is then that of the background, and
            ``bbox_regression`` that of the objects, their classes included.
        class_loss: ``focal``, or ``quality-focal`` (see ``quality_focal_loss``). Not used with ``free-anchor``.

    Examples:
        >>> from retina_edge.model.config import ModelConfig
        >>> model = RetinaNet(ModelConfig(num_classes=2, backbone="resnet18", fpn_channels=32, head_depth=1))
        >>> target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}
        >>> losses = RetinaNetCriterion(model)(model(torch.zeros(1, 3, 64, 64)), [target], (64, 64))
        >>> sorted(losses)
        ['bbox_regression', 'classification']
    """

    def __init__(self, model: RetinaNet, *, assigner: str = "iou", class_loss: str = "focal") -> None:
        self._assigner, self._class_loss = assigner, class_loss
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
        if self._assigner == "free-anchor":
            return self._free_anchor(targets, outputs, anchors)
        grids = [(level.shape[2], level.shape[3]) for level in logits]
        matches = [self._match(target["boxes"], anchors[n], grids) for n, target in enumerate(targets)]
        if self._class_loss == "quality-focal":
            return {
                "classification": self._quality_focal(targets, outputs, anchors, matches),
                "bbox_regression": self._head.regression_head.compute_loss(targets, outputs, anchors, matches),
            }
        losses: dict[str, Tensor] = self._head.compute_loss(targets, outputs, anchors, matches)
        return losses

    def _match(self, boxes: Tensor, anchors: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
        """Return the index of the box of each anchor, int64 [anchors]; a constant of ``Matcher`` if it has no box."""
        if self._assigner == "atss":
            return atss_matches(boxes, anchors, grids)
        if len(boxes) == 0:
            return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.int64, device=anchors.device)
        matched: Tensor = self._matcher(box_iou(boxes, anchors))
        return matched

    def _quality_focal(
        self,
        targets: Sequence[Target],
        outputs: dict[str, Tensor],
        anchors: Sequence[Tensor],
        matches: Sequence[Tensor],
    ) -> Tensor:
        """Return the quality focal loss. Anchors that torchvision ignores in the focal loss are ignored here, too."""
        coder = self._head.regression_head.box_coder
        losses = []
        for n, target in enumerate(targets):
            logits, deltas = outputs["cls_logits"][n], outputs["bbox_regression"][n].detach()
            positive = torch.where(matches[n] >= 0)[0]
            objects = matches[n][positive]
            predicted = coder.decode_single(deltas[positive], anchors[n][positive])
            quality = torch.zeros_like(logits)
            quality[positive, target["labels"][objects]] = paired_iou(predicted, target["boxes"][objects])
            used = matches[n] != Matcher.BETWEEN_THRESHOLDS
            losses.append(quality_focal_loss(logits[used], quality[used]) / max(1, len(positive)))
        return torch.stack(losses).mean()

    def _free_anchor(
        self, targets: Sequence[Target], outputs: dict[str, Tensor], anchors: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses of FreeAnchor, averaged over the images."""
        head = self._head.regression_head
        losses = [
            free_anchor_losses(
                outputs["cls_logits"][n],
                outputs["bbox_regression"][n],
                anchors[n],
                target["boxes"],
                target["labels"],
                box_coder=head.box_coder,
                box_loss=head._loss_type,
            )
            for n, target in enumerate(targets)
        ]
        classification, bbox_regression = (torch.stack(values).mean() for values in zip(*losses, strict=True))
        return {"classification": classification, "bbox_regression": bbox_regression}


def _flatten(levels: Sequence[Tensor], last: int) -> Tensor:
    """Convert raw heads, [N, A * last, h, w] of each level, to the layout of torchvision's loss: [N, anchors, last]."""
    return torch.cat([_split_channels(level, last).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in levels], 1)


def _split_channels(level: Tensor, last: int) -> Tensor:
    """Reshape [N, A * last, h, w] to [N, A, last, h, w]."""
    return level.view(level.shape[0], -1, last, *level.shape[2:])
