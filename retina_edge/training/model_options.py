"""The options of a new model. This module does not import torch, so that the command line works without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engines.core.contract import check_input_size
from engines.core.errors import ContractError
from engines.core.option_checks import check_integer, check_number
from retina_edge.data.anchor_fit import DEFAULT_RATIOS, DEFAULT_SIZES
from retina_edge.model.config import GROUPS, ModelConfig, octave_sizes


@dataclass(frozen=True)
class ModelOptions:
    """The options of a new model; see ``ModelConfig`` for the architecture.

    Attributes:
        input_size: (height, width) of the network's input, pixels, multiples of 32.
        anchor_sizes: size of the smallest anchor of each pyramid level, input pixels; None for the sizes that fit the
            data set best.
        aspect_ratios: height / width of the anchors.
        backbone, backbone_levels, backbone_norm, fpn_channels, head_depth, head_norm, box_loss: fields of
            ``ModelConfig``; ``backbone_levels`` is the last stage that is used, 3 to 5.
        backbone_weights: weights that the backbone starts from: ``imagenet``, which torchvision downloads, or the path
            of a file of torchvision's classification models; None for random weights.

    Raises:
        ValueError: if an option is out of range.

    Examples:
        >>> options = ModelOptions(input_size=(416, 736), backbone="resnet18", fpn_channels=64)
        >>> config = options.config(num_classes=3)
        >>> config.backbone, config.num_classes, len(config.anchor_sizes)
        ('resnet18', 3, 5)
    """

    input_size: tuple[int, int] = (800, 800)
    anchor_sizes: tuple[float, ...] | None = DEFAULT_SIZES
    aspect_ratios: tuple[float, ...] = DEFAULT_RATIOS
    backbone: str = "resnet50"
    backbone_levels: int = 5
    backbone_norm: str = "batch"
    fpn_channels: int = 256
    head_depth: int = 4
    head_norm: str = "none"
    box_loss: str = "l1"
    backbone_weights: str | None = None

    def __post_init__(self) -> None:
        check_input_size(self.input_size)
        check_integer("backbone_levels", self.backbone_levels, 3, 5)
        for name in ("fpn_channels", "head_depth"):
            check_integer(name, getattr(self, name), 1)
        # Sizes are rounded down to whole pixels, so a size below 1 would become 0.
        for size in self.anchor_sizes or ():
            check_number("anchor_sizes", size, "sizes of at least 1 pixel", lambda pixels: 1 <= pixels < math.inf)
        if not self.aspect_ratios:
            raise ContractError("aspect_ratios: expected at least one, got none")
        for ratio in self.aspect_ratios:
            check_number("aspect_ratios", ratio, "numbers above 0", lambda value: 0 < value < math.inf)
        try:
            self.config(num_classes=1)  # raises for a wrong option before any data is read
        except ValueError as error:
            raise ContractError(str(error)) from error

    def check_groups(self, size: tuple[int, int]) -> None:
        """Check that group normalization has more than one value in a group, for a single image.

        Args:
            size: (height, width) of the image, pixels.

        Raises:
            ContractError: if a group has one value.
        """
        coarsest = 4 << self.backbone_levels  # stride of the coarsest level, two levels above the last stage
        if self.head_norm == "group" and self.fpn_channels == GROUPS and max(size) <= coarsest:
            raise ContractError(
                f"head_norm: expected more than {GROUPS} channels for group normalization if the coarsest level has "
                f"one pixel, got {self.fpn_channels} channels and {size[0]}x{size[1]} pixels, where each group has one "
                "value; use another head_norm, more channels or a larger input"
            )

    def config(self, *, num_classes: int) -> ModelConfig:
        """Return the architecture for a number of classes.

        Raises:
            ValueError: if an option is out of range.
        """
        levels = tuple(range(3, self.backbone_levels + 1))
        sizes = DEFAULT_SIZES[: len(levels) + 2] if self.anchor_sizes is None else self.anchor_sizes
        return ModelConfig(
            num_classes=num_classes,
            backbone=self.backbone,
            backbone_levels=levels,
            fpn_channels=self.fpn_channels,
            head_depth=self.head_depth,
            head_norm=self.head_norm,
            backbone_norm=self.backbone_norm,
            box_loss=self.box_loss,
            anchor_sizes=octave_sizes(sizes),
            aspect_ratios=self.aspect_ratios,
        )
