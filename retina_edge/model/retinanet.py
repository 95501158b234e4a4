"""RetinaNet from normalized images to raw heads: class logits and box deltas of each pyramid level.

Modules have the same names as in torchvision, so that the weights of torchvision's RetinaNet checkpoints fit unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from engines.core.contract import DetectorContract, PyramidLevel
from engines.core.errors import ModelFileError
from engines.core.json_form import short
from retina_edge.model.config import GROUPS, ModelConfig, pyramid_levels
from retina_edge.model.level_norm import LevelBatchNorm

# For each stage: name of the module that ends it, and its output channels (in a ResNet, a multiple of layer1's).
_RESNET_STAGES = {3: ("layer2", 2), 4: ("layer3", 4), 5: ("layer4", 8)}
_MOBILENET_STAGES = {3: ("6", 40), 4: ("12", 112), 5: ("16", 960)}


class RetinaNet(nn.Module):
    """RetinaNet (Lin et al., arXiv 1708.02002) from torchvision's backbone, FPN and head.

    Args:
        config: the architecture.
        backbone_weights: state dict of torchvision's classification model, to start from; None for random weights.

    Raises:
        ModelFileError: if the weights are not those of this backbone.

    Examples:
        >>> model = RetinaNet(ModelConfig(num_classes=2, backbone="resnet18", fpn_channels=32, head_depth=1))
        >>> class_logits, box_deltas = model(torch.zeros(1, 3, 64, 96))
        >>> class_logits[0].shape, box_deltas[0].shape
        (torch.Size([1, 18, 8, 12]), torch.Size([1, 36, 8, 12]))
    """

    def __init__(self, config: ModelConfig, *, backbone_weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone_with_fpn(config, backbone_weights)
        num_anchors = len(config.anchor_sizes[0]) * len(config.aspect_ratios)
        self.head = RetinaNetHead(config.fpn_channels, num_anchors, config.num_classes, norm_layer=_head_norm(config))
        self.head.regression_head._loss_type = config.box_loss
        for branch in (self.head.classification_head, self.head.regression_head):
            branch.conv = branch.conv[: config.head_depth]
        self.anchor_generator = AnchorGenerator(config.anchor_sizes, (config.aspect_ratios,) * len(config.anchor_sizes))

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the raw heads.

        Args:
            images: normalized images (see ``export.preprocess``), float [N, 3, H, W], H and W multiples of 32.

        Returns:
            Class logits [N, A * C, h, w] and box deltas [N, A * 4, h, w] of each level, finest first.
        """
        features = list(self.backbone(images).values())
        classes, boxes = self.head.classification_head, self.head.regression_head
        return (
            [classes.cls_logits(_tower(classes.conv, x, level)) for level, x in enumerate(features)],
            [boxes.bbox_reg(_tower(boxes.conv, x, level)) for level, x in enumerate(features)],
        )

    def pyramid(self, input_size: tuple[int, int]) -> tuple[PyramidLevel, ...]:
        """Run the model on zeros and return the pyramid levels for an input of (height, width), pixels.

        Strides are torchvision's: the input's size divided by the feature map's, rounded down.
        """
        training = self.training
        self.eval()
        with torch.inference_mode():
            reference = next(self.parameters())
            logits, _ = self(torch.zeros(1, 3, *input_size, device=reference.device, dtype=reference.dtype))
        self.train(training)
        levels = []
        for level, sizes in zip(logits, self.config.anchor_sizes, strict=True):
            height, width = level.shape[-2:]
            stride = (input_size[0] // height, input_size[1] // width)
            levels.append(PyramidLevel((height, width), stride, sizes, self.config.aspect_ratios))
        return tuple(levels)


def check_contract(config: ModelConfig, contract: DetectorContract) -> None:
    """Check that a model and a contract agree on classes, anchors and the sizes of the raw heads.

    Raises:
        ValueError: if they differ.
    """
    levels = pyramid_levels(contract.input_size, config.anchor_sizes, config.aspect_ratios)
    if (config.num_classes, levels) != (contract.num_classes, contract.levels):
        raise ValueError(
            f"model and contract differ in classes, anchors or pyramid: expected {config.num_classes} classes and "
            f"{short(levels)}, got {contract.num_classes} classes and {short(contract.levels)}"
        )


def _head_norm(config: ModelConfig) -> Callable[[int], nn.Module] | None:
    """Return what makes a normalization of the heads for a number of channels; None for heads without."""
    if config.head_norm == "none":
        return None
    if config.head_norm == "group":
        return partial(nn.GroupNorm, GROUPS)
    return partial(LevelBatchNorm, levels=config.num_levels, fixed=config.head_norm == "frozen")


def _tower(blocks: nn.Sequential, x: Tensor, level: int) -> Tensor:
    """Run the convolutions of a head on the features of one pyramid level."""
    for block in blocks.children():
        for module in block.children():
            x = module(x, level) if isinstance(module, LevelBatchNorm) else module(x)
    return x


def _backbone_with_fpn(config: ModelConfig, weights: Mapping[str, Tensor] | None) -> BackboneWithFPN:
    norm = FrozenBatchNorm2d if config.backbone_norm == "frozen" else nn.BatchNorm2d
    norm = partial(norm, eps=config.norm_eps)
    if config.backbone == "mobilenet_v3_large":
        classifier: nn.Module = mobilenet_v3_large(norm_layer=norm)
        _load(classifier, weights, config.backbone)
        body, stages = classifier.features, _MOBILENET_STAGES
    else:
        body = classifier = getattr(resnet, config.backbone)(norm_layer=norm)
        _load(classifier, weights, config.backbone)
        last = body.layer1[-1]
        width = (last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels
        stages = {level: (name, factor * width) for level, (name, factor) in _RESNET_STAGES.items()}
    names, channels = zip(*(stages[level] for level in config.backbone_levels), strict=True)
    extra = LastLevelP6P7(config.fpn_channels if config.extra_levels == "p" else channels[-1], config.fpn_channels)
    # torchvision guesses the origin from the channel counts, and takes the last pyramid level if both counts are equal.
    extra.use_P5 = config.extra_levels == "p"
    return BackboneWithFPN(
        body,
        return_layers={name: str(index) for index, name in enumerate(names)},
        in_channels_list=list(channels),
        out_channels=config.fpn_channels,
        extra_blocks=extra,
    )


def _load(classifier: nn.Module, weights: Mapping[str, Tensor] | None, backbone: str) -> None:
    if weights is None:
        return
    try:
        # A FrozenBatchNorm2d does not count its batches, and the last layer may have any number of classes.
        own = classifier.state_dict()
        heads = ("fc.", "classifier.")
        fitting = {name: value for name, value in weights.items() if name in own and not name.startswith(heads)}
        kept = {name: value for name, value in own.items() if name.startswith(heads)}
        ignored = (*heads, "num_batches_tracked")
        if surplus := [name for name in weights if name not in own and not any(part in name for part in ignored)]:
            raise RuntimeError(f"unexpected {surplus[0]}")
        classifier.load_state_dict({**fitting, **kept})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelFileError(
            f"backbone weights: expected those of torchvision's {backbone}, got others ({reason}); name another file"
        ) from error
