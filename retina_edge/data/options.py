"""The settings of augmentation; without torch, so that the command line can be read without it."""

from __future__ import annotations

from dataclasses import dataclass

from engines.contract import check_input_size

ORIENTATIONS = ("none", "horizontal", "dihedral")


@dataclass(frozen=True)
class AugmentOptions:
    """What training does to an image.

    Attributes:
        size: (height, width) of the crops the network sees, pixels, multiples of 32.
        input_size: (height, width) of the contract; objects are as large as there times ``scale``.
        scale: smallest and largest factor of the scale jitter.
        orientation: ``none``, ``horizontal`` flips, or ``dihedral``: all eight turns and flips, for images from
            above, where no direction is up.
        photometric: change brightness, contrast, saturation and hue.
        min_visible: share of a box's area that must be left in the crop for it to count.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float] = (0.7, 1.4)
    orientation: str = "horizontal"
    photometric: bool = True
    min_visible: float = 0.4

    def __post_init__(self) -> None:
        check_input_size(self.size)
        if self.orientation not in ORIENTATIONS:
            raise ValueError(f"orientation: expected one of {', '.join(ORIENTATIONS)}, got {self.orientation}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: expected 0 < smallest <= largest, got {self.scale}")
