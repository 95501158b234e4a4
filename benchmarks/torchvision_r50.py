"""Torchvision's RetinaNet-R50 with random weights that find something, for measurements without a download."""

from __future__ import annotations

import torch
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

# The prior gives every anchor the score 0.01. With this spread of the last layer's weights around it a few hundred
# candidates pass 0.05, as on a photograph with trained weights.
SPREAD = 0.03


def lively_r50(size: int) -> RetinaNet:
    """In evaluation mode, for images of ``size`` x ``size`` pixels, which it does not resize."""
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=size, max_size=size)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=SPREAD)
    return model.eval()
