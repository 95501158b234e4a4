"""Real images to verify a model with: the user's, or the forest that comes along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.errors import SourceError
from retina_edge.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.sample import FOREST

# More pictures verify nothing new, and each is run several times.
MOST_IMAGES = 8


def read_images(paths: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
    """The first pictures of files and folders, BGR uint8 [height, width, 3].

    Raises:
        SourceError: there are none, or one cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [file for file in inside if file == path or file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise SourceError(f"{', '.join(map(str, paths))}: expected images to verify with, found none")
    return [read_image(file) for file in files[:MOST_IMAGES]]


def windows_of_forest(input_size: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    """Windows of the picture that comes along, as large as the input where it is, and noise."""
    forest = read_image(FOREST)
    height, width = (min(side, limit) for side, limit in zip(input_size, forest.shape[:2], strict=True))
    lefts = np.linspace(0, forest.shape[1] - width, 3).astype(int)
    windows = [forest[:height, left : left + width] for left in lefts]
    return [*windows, np.random.default_rng(0).integers(0, 256, (*input_size, 3), np.uint8)]
