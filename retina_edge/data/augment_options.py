"""The options of augmentation. This module does not import torch, so that the command line works without it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from engines.core.contract import check_input_size
from engines.core.errors import ContractError
from engines.core.option_checks import check_choice, check_number, check_pair, check_size

ORIENTATIONS = ("none", "horizontal", "dihedral")
PHOTOMETRIC = ("none", "usual", "strong")


@dataclass(frozen=True)
class AugmentOptions:
    """The random changes of training images.

    Attributes:
        size: (height, width) of the training crops, pixels, multiples of 32; None for ``input_size``.
        input_size: (height, width) of the network's input, pixels; None for the contract's. Objects in a crop are as
            large as in the input, times a random factor.
        scale: smallest and largest value of the random factor, which is uniform between them: (0.1, 2.0) is the
            large-scale jitter of Ghiasi et al. (arXiv 2012.07177, section 3). Objects that a factor below a half
            shrinks to less than 2 pixels are dropped.
        orientation: ``none``, ``horizontal`` (flips), or ``dihedral`` (all eight rotations and flips of a square crop,
            four of others), for images from above, in which no direction is up.
        photometric: ``none``, ``usual`` (brightness, contrast, saturation and hue, a little), or ``strong`` (more of
            them, and what other cameras, light and weather change; see ``StrongPhotometric``). ``True`` and ``False``
            stand for ``usual`` and ``none``, as in earlier files.
        min_visible: share of a box's area, 0 to 1, that must be left in the crop; other boxes are dropped.
        mosaic: probability of a mosaic of four images (Bochkovskiy et al., arXiv 2004.10934, section 3.3).
        copy_paste: probability that objects of another image are pasted, each as the box that holds it (Dwibedi et al.,
            arXiv 1708.01642; Ghiasi et al.). The last part of a run sees neither mosaics nor pasted objects.

    Raises:
        ContractError: if an option is out of range.
    """

    size: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.7, 1.4)
    orientation: str = "horizontal"
    photometric: str = "usual"
    min_visible: float = 0.4
    mosaic: float = 0.0
    copy_paste: float = 0.0

    def __post_init__(self) -> None:
        if self.size is not None:
            check_input_size(self.size, "size")
        if self.input_size is not None:
            check_size("input_size", self.input_size)
        check_choice("orientation", self.orientation, ORIENTATIONS)
        object.__setattr__(self, "photometric", photometric_level(self.photometric))
        check_choice("photometric", self.photometric, PHOTOMETRIC)
        check_pair("scale", self.scale, "the smallest and the largest factor")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ContractError(f"scale: expected 0 < smallest <= largest, got {self.scale}")
        check_number("min_visible", self.min_visible, "0 <= share <= 1", lambda share: 0 <= share <= 1)
        for name in ("mosaic", "copy_paste"):
            check_number(name, getattr(self, name), "0 <= probability <= 1", lambda chance: 0 <= chance <= 1)

    def for_input(self, input_size: tuple[int, int]) -> AugmentOptions:
        """Return the options with both sizes filled in, for a network's input of (height, width).

        Examples:
            >>> options = AugmentOptions(size=(256, 256)).for_input((416, 736))
            >>> options.size, options.input_size
            ((256, 256), (416, 736))
        """
        return dataclasses.replace(self, size=self.size or input_size, input_size=input_size)


def photometric_level(value: Any) -> Any:
    """Return the level that a value of ``photometric`` stands for: earlier files say true or false.

    Examples:
        >>> photometric_level(True), photometric_level("strong")
        ('usual', 'strong')
    """
    return PHOTOMETRIC[int(value)] if isinstance(value, bool) else value
