"""The architecture of a RetinaNet, which every checkpoint contains, so that loading needs no options."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from engines.core.contract import MAX_CLASSES, PyramidLevel, check_anchors
from engines.core.errors import ModelFileError
from engines.core.json_form import INTEGER, NUMBER, TEXT, Form, read_json, short

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "mobilenet_v3_large")
HEAD_NORMS = ("none", "group", "batch", "frozen")
# torchvision's GroupNorm heads have 32 groups.
GROUPS = 32
# Far above every pyramid, so that a damaged or hostile file cannot ask for more memory than there is.
MAX_CHANNELS = 4096
# Stride of the finest pyramid level, from stage C3, pixels.
FINEST_STRIDE = 8
_CONFIG: Form = {
    "num_classes": INTEGER,
    "backbone_levels": [INTEGER],
    "anchor_sizes": [[NUMBER]],
    "aspect_ratios": [NUMBER],
    **dict.fromkeys(("fpn_channels?", "head_depth?"), INTEGER),
    **dict.fromkeys(("backbone?", "extra_levels?", "head_norm?", "backbone_norm?", "box_loss?"), TEXT),
    "norm_eps?": NUMBER,
}


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a RetinaNet (Lin et al., arXiv 1708.02002), in torchvision's terms.

    Attributes:
        num_classes: number of classes.
        backbone: name of the backbone, one of ``BACKBONES``.
        backbone_levels: stages that feed the pyramid; stage 3 is C3 at stride 8. The backbone has no later stages.
        extra_levels: origin of the two coarser levels: the last pyramid level (``p``) or the last stage (``c``).
        fpn_channels: number of channels of pyramid and heads, a multiple of 32.
        head_depth: number of 3×3 convolutions in each head before its last one, 1 to 4.
        head_norm: normalization in the heads: ``group``, which costs time on the device; ``batch``, with statistics of
            each level, which export folds into the convolutions; ``frozen``, which is ``batch`` with fixed statistics;
            or ``none``.
        backbone_norm: normalization in the backbone: ``batch``, or ``frozen`` with fixed statistics and scale.
        norm_eps: epsilon of the backbone's normalization.
        box_loss: loss of the boxes: ``l1``, ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
        anchor_sizes: anchor sizes of each level, input pixels, finest level first.
        aspect_ratios: height / width of the anchors, the same on every level.

    Raises:
        ValueError: if a value is out of range, or ``anchor_sizes`` does not fit the number of levels.

    Examples:
        >>> config = ModelConfig(num_classes=2, backbone="resnet18")
        >>> config.num_levels, config.anchor_sizes[0]
        (5, (32.0, 40.0, 50.0))
    """

    num_classes: int
    backbone: str = "resnet50"
    backbone_levels: tuple[int, ...] = (3, 4, 5)
    extra_levels: str = "p"
    fpn_channels: int = 256
    head_depth: int = 4
    head_norm: str = "none"
    backbone_norm: str = "batch"
    norm_eps: float = 1e-5
    box_loss: str = "l1"
    anchor_sizes: tuple[tuple[float, ...], ...] = dataclasses.field(
        default_factory=lambda: octave_sizes((32, 64, 128, 256, 512))
    )
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        _one_of("backbone", self.backbone, BACKBONES)
        _one_of("backbone_levels", self.backbone_levels, ((3,), (3, 4), (3, 4, 5)))
        _one_of("extra_levels", self.extra_levels, ("p", "c"))
        _one_of("head_depth", self.head_depth, (1, 2, 3, 4))
        _one_of("head_norm", self.head_norm, HEAD_NORMS)
        _one_of("backbone_norm", self.backbone_norm, ("batch", "frozen"))
        _one_of("box_loss", self.box_loss, ("l1", "smooth_l1", "giou", "diou", "ciou"))
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes: expected 1 to {MAX_CLASSES}, got {self.num_classes}")
        if not GROUPS <= self.fpn_channels <= MAX_CHANNELS or self.fpn_channels % GROUPS:
            raise ValueError(
                f"fpn_channels: expected a multiple of {GROUPS} up to {MAX_CHANNELS}, got {self.fpn_channels}"
            )
        if not 0 <= self.norm_eps <= 1:
            raise ValueError(f"norm_eps: expected 0 to 1, got {self.norm_eps}")
        if len(self.anchor_sizes) != self.num_levels:
            raise ValueError(
                f"anchor_sizes: expected sizes for {self.num_levels} levels ({len(self.backbone_levels)} of "
                f"the backbone and 2 coarser ones), got {len(self.anchor_sizes)}"
            )
        for index, sizes in enumerate(self.anchor_sizes):
            check_anchors(f"anchor_sizes[{index}]", sizes, self.aspect_ratios)
            if len(sizes) != len(self.anchor_sizes[0]):
                raise ValueError(
                    f"anchor_sizes[{index}]: expected {len(self.anchor_sizes[0])} sizes, as on the first level, got "
                    f"{len(sizes)}"
                )

    @property
    def num_levels(self) -> int:
        """The number of pyramid levels: one for each backbone stage, and two coarser ones."""
        return len(self.backbone_levels) + 2

    def to_json(self) -> str:
        """Return the configuration as JSON, for ``from_json``."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Make a configuration from the JSON of ``to_json``.

        Raises:
            ModelFileError: if the text is not such JSON, or a value is out of range.
        """
        try:
            values = read_json(text, _CONFIG, what="JSON")
            values["anchor_sizes"] = tuple(tuple(sizes) for sizes in values["anchor_sizes"])
            values["aspect_ratios"] = tuple(values["aspect_ratios"])
            values["backbone_levels"] = tuple(values["backbone_levels"])
            return cls(**values)
        except ValueError as error:
            raise ModelFileError(
                f"model configuration: {error}; the checkpoint is damaged, or a newer version wrote it"
            ) from error


def pyramid_levels(
    input_size: tuple[int, int], anchor_sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float]
) -> tuple[PyramidLevel, ...]:
    """Return the pyramid levels of a network without building it. Its convolutions of stride 2 round sizes up.

    Args:
        input_size: (height, width) of the network's input, pixels.
        anchor_sizes: anchor sizes of each level, input pixels, finest level first.
        aspect_ratios: height / width of the anchors.

    Examples:
        >>> [level.feature_size for level in pyramid_levels((416, 736), octave_sizes((32, 64, 128)), (0.5, 1, 2))]
        [(52, 92), (26, 46), (13, 23)]
    """
    levels = []
    for index, sizes in enumerate(anchor_sizes):
        height, width = (math.ceil(side / (FINEST_STRIDE * 2**index)) for side in input_size)
        stride = (input_size[0] // height, input_size[1] // width)
        levels.append(PyramidLevel((height, width), stride, tuple(sizes), tuple(aspect_ratios)))
    return tuple(levels)


def octave_sizes(bases: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Return three anchor sizes for each level: 1, 2^(1/3) and 2^(2/3) times its base, rounded down as in torchvision.

    Examples:
        >>> octave_sizes((32, 64))
        ((32.0, 40.0, 50.0), (64.0, 80.0, 101.0))
    """
    return tuple(tuple(base * 2 ** (step / 3) // 1.0 for step in range(3)) for base in bases)


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, allowed))}, got {short(value)}")
