"""Small models for tests, which run fast and find boxes."""

from __future__ import annotations

import torch
from torch import nn

from engines.core.contract import DetectorContract
from retina_edge.model.config import ModelConfig, octave_sizes
from retina_edge.model.level_norm import LevelBatchNorm
from retina_edge.model.retinanet import RetinaNet

TINY = ModelConfig(
    num_classes=1,
    backbone="resnet18",
    backbone_levels=(3,),
    fpn_channels=32,
    head_depth=1,
    head_norm="group",
    anchor_sizes=octave_sizes((32, 64, 128)),
)


def lively(model: RetinaNet, seed: int = 0) -> RetinaNet:
    """Randomize biases and statistics so that scores spread over 0 to 1, instead of staying at the prior's 0.01."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | LevelBatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.8, 1.2, generator=generator)  # type: ignore[union-attr]
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.normal_(-2, 1, generator=generator)
        model.head.regression_head.bbox_reg.bias.normal_(0, 0.2, generator=generator)
    return model.eval()


def contract_of(model: RetinaNet, input_size: tuple[int, int] = (128, 160)) -> DetectorContract:
    """Return a contract with classes c0, c1, ... (``tree`` if there is one) and gaps in the category ids as in COCO."""
    count = model.config.num_classes
    return DetectorContract(
        architecture="tiny",
        input_size=input_size,
        class_names=tuple(f"c{n}" for n in range(count)) if count > 1 else ("tree",),
        category_ids=tuple(2 * n + 1 for n in range(count)),
        levels=model.pyramid(input_size),
    )
