"""Quantization-aware training: the rounding of INT8 in the forward pass, none in the gradients.

Where the layout ``tensorrt`` of ``export.precision.quantization`` has pairs of QuantizeLinear and DequantizeLinear,
what goes through here is rounded as they round; weights learn to live with it, and are exported as any others are.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv 1712.05877, section 3; straight-through gradients: Bengio et al., arXiv 1308.3432.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from retina_edge.model.retinanet import RetinaNet

LIMIT = 127
# Of a tensor that is zero everywhere.
LEAST_SCALE = 1e-12


class FakeQuantize(nn.Module):
    """Rounds tensors to the int8 steps of their range, symmetric around 0; what lies outside has no gradient.

    Args:
        uses: how often it is called in one forward pass. Each use has a range of its own, as each level of the pyramid
            has in the heads.
    """

    greatest: Tensor

    def __init__(self, uses: int = 1) -> None:
        super().__init__()
        # Not among the weights: a checkpoint holds what the architecture names, and export calibrates anew.
        self.register_buffer("greatest", torch.zeros(uses), persistent=False)
        self.observing = True
        self._use = 0

    def forward(self, x: Tensor) -> Tensor:
        use, self._use = self._use, (self._use + 1) % len(self.greatest)
        if self.observing:
            self.greatest[use] = torch.maximum(self.greatest[use], x.detach().abs().amax())
            return x
        scale = (self.greatest[use] / LIMIT).clamp_min(LEAST_SCALE)
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, -LIMIT - 1, LIMIT).to(x.dtype)


class QuantizedConv2d(nn.Conv2d):
    """A convolution of rounded inputs and, a scale for each output channel, rounded weights.

    That a normalization is folded into the weights at export changes each channel by a factor, which goes into its
    scale: the steps stay the same.
    """

    def __init__(self, conv: nn.Conv2d, uses: int) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.inputs = FakeQuantize(uses)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(self.inputs(x), self._rounded_weight(), self.bias)
        return convolved

    def _rounded_weight(self) -> Tensor:
        if self.inputs.observing:
            return self.weight
        weight = self.weight.float()
        scale = (weight.detach().abs().flatten(1).amax(1) / LIMIT).clamp_min(LEAST_SCALE)
        zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -LIMIT, LIMIT)
        return rounded


class FixedBatchNorm2d(nn.BatchNorm2d):
    """A batch normalization that keeps its statistics in training: they are folded into the weights at export."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())
        self.train(False)

    def train(self, mode: bool = True) -> FixedBatchNorm2d:  # noqa: ARG002
        return super().train(False)


def add_fake_quantization(model: RetinaNet, batches: Iterable[Tensor]) -> None:
    """Puts the rounding of INT8 into a trained model, in place; names and shapes of its weights stay.

    The first convolution, the last of each head, and normalizations stay in floating point, as they do at export. Of
    residual sums the skipped branch is rounded in ResNets; MobileNet's are not.

    Args:
        model: in float32.
        batches: what it sees, float [n, 3, H, W], normalized: the ranges of the activations are theirs, from minmax.

    Raises:
        ValueError: no batches.
    """
    kept = {next(module for module in model.modules() if isinstance(module, nn.Conv2d))}
    kept |= {model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg}
    levels = len(model.config.anchor_sizes)
    in_heads = set(model.head.modules())
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, FixedBatchNorm2d(child))
            elif isinstance(child, nn.Conv2d) and child not in kept:
                setattr(parent, name, QuantizedConv2d(child, levels if child in in_heads else 1))
    for block in model.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            # torchvision's blocks send the skipped branch through ``downsample`` where there is one.
            branch = block.downsample or ()
            block.downsample = nn.Sequential(*branch, FakeQuantize())
    model.to(next(model.parameters()).device)  # what is new was made on the CPU
    model.eval()
    with torch.inference_mode():
        count = sum(1 for _ in map(model, batches))
    if not count:
        raise ValueError("batches: expected at least one to take ranges from, got none")
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.observing = False


def ranges_of(model: nn.Module) -> list[Tensor]:
    """The greatest values of each rounding, in the model's order; empty where nothing is rounded."""
    return [module.greatest for module in model.modules() if isinstance(module, FakeQuantize)]
