"""Distillation: a student also learns to give the outputs of a trained teacher, which sees the same crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retina_edge.data.augment import Target
from retina_edge.model.config import FINEST_STRIDE
from retina_edge.model.retinanet import RetinaNet
from retina_edge.training.checkpoint_teacher import CheckpointTeacher, FeatureHook
from retina_edge.training.distillation_losses import Heads, feature_loss, head_losses
from retina_edge.training.processes import ProcessGroup
from retina_edge.training.teacher import Teacher
from retina_edge.training.training_log import DISTILLATION_LOSSES

if TYPE_CHECKING:
    from retina_edge.training.trainer import Trainer

# Weight of the features' loss, which lies between 0 and 2.
FEATURE_WEIGHT = 2.0


class Adaptation(nn.Module):
    """A 1x1 convolution from a student's features to the channels of its teacher; nothing if both have equally many.

    All levels share it, as they share the heads. It is trained with the student, and is not part of it.

    Args:
        channels: number of channels of the student's features.
        taught: number of channels of the teacher's features; 0 if there are none.

    Examples:
        >>> [level.shape for level in Adaptation(32, 64)([torch.zeros(2, 32, 8, 12), torch.zeros(2, 32, 4, 6)])]
        [torch.Size([2, 64, 8, 12]), torch.Size([2, 64, 4, 6])]
    """

    def __init__(self, channels: int, taught: int) -> None:
        super().__init__()
        # No bias, because the correlation ignores an offset.
        self.conv = nn.Conv2d(channels, taught, 1, bias=False) if taught not in (0, channels) else nn.Identity()

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Adapt features [N, channels, h, w] of each level; the result is float32."""
        return [self.conv(level.float()) for level in levels]


class Distillation:
    """The losses of a student towards its teacher.

    Args:
        teacher: the teacher.
        model: the student, which gets a hook.
        weight: factor of all losses.
        amp: data type of the teacher's forward pass; None for float32.
        group: this process and its device.
        seed: seed of the adaptation.

    Attributes:
        teacher: the teacher.
        losses: names of the losses.
        adaptation: the adaptation of the student's features to the teacher's channels.

    Examples:
        >>> from retina_edge.assets import CHECKPOINT
        >>> from retina_edge.model.checkpoint import load_checkpoint
        >>> from retina_edge.training.load_teacher import load_teacher
        >>> group = ProcessGroup(rank=0, world=1, device=torch.device("cpu"))
        >>> student = load_checkpoint(CHECKPOINT).build_model()
        >>> teacher = load_teacher(CHECKPOINT, group.device)
        >>> distillation = Distillation(teacher, student, weight=1.0, amp=None, group=group, seed=0)
        >>> targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]])}]
        >>> heads = student(torch.zeros(1, 3, 64, 96))
        >>> list(distillation(torch.zeros(1, 64, 96, 3, dtype=torch.uint8), heads, targets))
        ['distill_logits', 'distill_boxes', 'distill_features']
    """

    def __init__(
        self,
        teacher: Teacher,
        model: RetinaNet,
        *,
        weight: float,
        amp: torch.dtype | None,
        group: ProcessGroup,
        seed: int,
    ) -> None:
        self.teacher, self._weight, self._amp, self._device = teacher, weight, amp, group.device
        self._num_classes = model.config.num_classes
        self.losses = DISTILLATION_LOSSES if teacher.channels else DISTILLATION_LOSSES[:2]
        self._features = FeatureHook(model) if teacher.channels else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.adaptation = Adaptation(model.config.fpn_channels, teacher.channels).to(group.device)
        self._adapt: nn.Module = self.adaptation
        if group.world > 1 and self.parameters():
            ids = [group.device.index] if group.device.type == "cuda" else None
            self._adapt = DistributedDataParallel(self.adaptation, device_ids=ids)

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained beside the student."""
        return list(self.adaptation.parameters())

    def __call__(self, images: Tensor, heads: Heads, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compute the losses of a step, scalars by name.

        Args:
            images: crops that the student has just seen, BGR, uint8 [N, H, W, 3].
            heads: raw heads of the student, as for ``RetinaNetCriterion``.
            targets: ``boxes``, float [M, 4] xyxy in pixels of the crop, and ``labels`` of each image.
        """
        with torch.autocast(self._device.type, self._amp, enabled=self._amp is not None):
            taught = self.teacher(images)
        losses = list(head_losses(heads, (taught.logits, taught.deltas), self._num_classes))
        if self._features:
            adapted, boxes = self._adapt(self._features.take()), [target["boxes"] for target in targets]
            losses.append(FEATURE_WEIGHT * feature_loss(adapted, taught.features, boxes, FINEST_STRIDE))
        return {name: self._weight * loss for name, loss in zip(self.losses, losses, strict=True)}


def attach(trainer: Trainer, teacher: Teacher) -> None:
    """Let a trainer distill a teacher.

    Args:
        trainer: trainer before its first step, and before it is resumed.
        teacher: the teacher; see ``teacher.introduce`` for what must be equal.
    """
    options = trainer.options
    distillation = Distillation(
        teacher,
        trainer.model,
        weight=options.distill_weight,
        amp=trainer.amp,
        group=trainer.group,
        seed=options.seed,
    )
    if parameters := distillation.parameters():
        trainer.optimizer.add_param_group({"params": parameters, "weight_decay": options.weight_decay})
    if trainer.guard and isinstance(teacher, CheckpointTeacher):
        trainer.guard.watch(teacher.model)
    trainer.distillation = distillation
