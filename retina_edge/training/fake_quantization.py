"""Quantization-aware training: the rounding of INT8 in the forward pass, but not in the gradients.

Tensors are rounded wherever the layout ``tensorrt`` of ``export.precision.quantization`` has a pair of QuantizeLinear
and DequantizeLinear, and with the same result. The weights adapt to the rounding. Export treats the trained checkpoint
like any other.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv 1712.05877, section 3; straight-through gradients: Bengio et al., arXiv 1308.3432.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from retina_edge.model.level_norm import LevelBatchNorm
from retina_edge.model.retinanet import RetinaNet

# Largest int8 value; a range is divided into this many steps on each side of 0.
MAX_INT8 = 127
# Lower bound of a scale, for a tensor that is zero everywhere.
MIN_SCALE = 1e-12


class FakeQuantize(nn.Module):
    """Rounding of tensors to the int8 steps of a range that is symmetric around 0; values outside get no gradient.

    While ``observing`` is True, the module measures the range and returns tensors unchanged.

    Args:
        uses: number of calls in one forward pass. Each call has a separate range, because the heads run once for each
            level of the pyramid.

    Attributes:
        greatest: largest absolute value of each use, float32 [uses].
        observing: True to measure ranges, False to round.

    Examples:
        >>> rounding = FakeQuantize()
        >>> _ = rounding(torch.tensor([-12.7, 3.0]))
        >>> rounding.observing = False
        >>> rounding(torch.tensor([0.06, 13.0]))
        tensor([ 0.1000, 12.7000])
    """

    greatest: Tensor

    def __init__(self, uses: int = 1) -> None:
        super().__init__()
        # The buffer is not in the state dict: a checkpoint holds only the weights of the architecture, and export
        # calibrates again.
        self.register_buffer("greatest", torch.zeros(uses), persistent=False)
        self.observing = True
        self._use = 0

    def forward(self, x: Tensor) -> Tensor:
        use, self._use = self._use, (self._use + 1) % len(self.greatest)
        if self.observing:
            self.greatest[use] = torch.maximum(self.greatest[use], x.detach().abs().amax())
            return x
        scale = (self.greatest[use] / MAX_INT8).clamp_min(MIN_SCALE)
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, -MAX_INT8 - 1, MAX_INT8).to(x.dtype)


class QuantizedConv2d(nn.Conv2d):
    """A convolution with rounded inputs, and with weights rounded with one scale for each output channel.

    At export, a normalization is folded into the weights, which multiplies each channel by a factor. The factor only
    changes the scale of the channel, so the rounding stays the same.

    Args:
        conv: the convolution to replace; its weight and bias are shared.
        uses: number of calls in one forward pass.
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
        scale = (weight.detach().abs().flatten(1).amax(1) / MAX_INT8).clamp_min(MIN_SCALE)
        zeros = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -MAX_INT8, MAX_INT8)
        return rounded


class FixedBatchNorm2d(nn.BatchNorm2d):
    """A batch normalization with fixed statistics, also in training, because export folds them into the weights.

    Args:
        norm: the batch normalization to replace; its state is copied.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())
        self.train(False)

    def train(self, mode: bool = True) -> FixedBatchNorm2d:  # noqa: ARG002
        return super().train(False)


def add_fake_quantization(model: RetinaNet, batches: Iterable[Tensor]) -> None:
    """Add the rounding of INT8 to a trained model, in place. The names and shapes of the weights stay the same.

    The first convolution, the last one of each head, and normalizations stay in floating point, as at export. In a
    ResNet, the skip branch of each residual sum is rounded, too; in MobileNet it is not.

    Args:
        model: trained model in float32.
        batches: normalized images, float [n, 3, H, W], to measure the ranges of the activations on (minmax).

    Raises:
        ValueError: if there are no batches.

    Examples:
        >>> from retina_edge.model.config import ModelConfig
        >>> model = RetinaNet(ModelConfig(1, "resnet18", fpn_channels=32, head_depth=1))
        >>> add_fake_quantization(model, [torch.zeros(1, 3, 64, 64)])
        >>> type(model.head.classification_head.conv[0][0]).__name__
        'QuantizedConv2d'
    """
    kept = {next(module for module in model.modules() if isinstance(module, nn.Conv2d))}
    kept |= {model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg}
    levels = len(model.config.anchor_sizes)
    in_heads = set(model.head.modules())
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, FixedBatchNorm2d(child))
            elif isinstance(child, LevelBatchNorm):
                child.fixed = True
            elif isinstance(child, nn.Conv2d) and child not in kept:
                setattr(parent, name, QuantizedConv2d(child, levels if child in in_heads else 1))
    for block in model.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            # torchvision's blocks send the skip branch through ``downsample`` if there is one.
            branch = block.downsample or ()
            block.downsample = nn.Sequential(*branch, FakeQuantize())
    model.to(next(model.parameters()).device)  # the new buffers are on the CPU
    model.eval()
    with torch.inference_mode():
        count = sum(1 for _ in map(model, batches))
    if not count:
        raise ValueError("batches: expected at least one to measure ranges on, got none")
    for module in model.modules():
        if isinstance(module, FakeQuantize):
            module.observing = False


def ranges_of(model: nn.Module) -> list[Tensor]:
    """Return the ranges of all ``FakeQuantize`` modules, in the order of the model; empty without quantization."""
    return [module.greatest for module in model.modules() if isinstance(module, FakeQuantize)]
