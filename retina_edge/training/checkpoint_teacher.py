"""A checkpoint as a teacher, run by torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from export.preprocess import Preprocess
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.model.retinanet import RetinaNet
from retina_edge.training.teacher import Teacher, TeacherOutput


class CheckpointTeacher(Teacher):
    """A checkpoint as a teacher, which gives raw heads and features, for crops of any size.

    Args:
        path: path of the checkpoint.
        device: device to run on.

    Attributes:
        model: the model, in evaluation mode.

    Raises:
        ModelFileError: if the file is missing, corrupt, or not a checkpoint of retina_edge.

    Examples:
        >>> from retina_edge.assets import CHECKPOINT
        >>> teacher = CheckpointTeacher(CHECKPOINT, torch.device("cpu"))
        >>> output = teacher(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
        >>> output.logits[0].shape, output.features[0].shape
        (torch.Size([1, 9, 8, 12]), torch.Size([1, 96, 8, 12]))
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        checkpoint = load_checkpoint(path)
        super().__init__(path, checkpoint.contract)
        model = checkpoint.build_model().requires_grad_(requires_grad=False)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._preprocess = Preprocess(self.contract).to(device)
        self._features = FeatureHook(self.model)
        self.channels = checkpoint.config.fpn_channels

    @torch.no_grad()
    def __call__(self, images: Tensor) -> TeacherOutput:
        logits, deltas = self.model(self._preprocess(images).contiguous(memory_format=torch.channels_last))
        return TeacherOutput(logits, deltas, self._features.take())


class FeatureHook:
    """Keeps the features of the pyramid of a model's last forward pass.

    Args:
        model: model that gets the hook.

    Examples:
        >>> from retina_edge.model.config import ModelConfig
        >>> model = RetinaNet(ModelConfig(num_classes=2, backbone="resnet18", fpn_channels=32, head_depth=1))
        >>> hook = FeatureHook(model)
        >>> heads = model(torch.zeros(1, 3, 64, 96))
        >>> hook.take()[0].shape
        torch.Size([1, 32, 8, 12])
    """

    def __init__(self, model: RetinaNet) -> None:
        self._last: list[Tensor] = []
        model.backbone.register_forward_hook(self._keep)

    def take(self) -> list[Tensor]:
        """Return the features of each level, [N, channels, h, w], and forget them."""
        features, self._last = self._last, []
        return features

    def _keep(self, _module: object, _inputs: object, output: dict[str, Tensor]) -> None:
        self._last = list(output.values())
