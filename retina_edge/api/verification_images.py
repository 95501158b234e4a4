"""Real images to verify a model on: the user's, or parts of the sample image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.core.contract import BIT_DEPTH
from engines.core.errors import SourceError
from engines.core.letterbox import BgrImage
from retina_edge.assets import FOREST
from retina_edge.imaging.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.system.natural_order import natural_order

# Image files and folders: one path, or several.
ImagePaths = Path | str | Sequence[Path | str]
# More images would hardly find more errors, and each image runs through several models.
MAX_VERIFICATION_IMAGES = 8


def read_images(paths: ImagePaths, bit_depth: int = BIT_DEPTH) -> list[BgrImage]:
    """Read the first ``MAX_VERIFICATION_IMAGES`` images of files and folders: uint8 [height, width, 3], BGR.

    Args:
        paths: image files, and folders of image files; one path or several.
        bit_depth: bits that image files of 16 bits use.

    Raises:
        SourceError: if there are no images, or an image cannot be read.

    Examples:
        >>> [image.shape for image in read_images([FOREST])]
        [(622, 2299, 3)]
    """
    files: list[Path] = []
    given = [paths] if isinstance(paths, Path | str) else paths
    for path in map(Path, given):
        inside = sorted(path.iterdir(), key=natural_order) if path.is_dir() else [path]
        files += [file for file in inside if file == path or file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise SourceError(f"{', '.join(map(str, given))}: expected images to verify with, found none")
    return [read_image(file, bit_depth) for file in files[:MAX_VERIFICATION_IMAGES]]


def sample_images(input_size: tuple[int, int]) -> list[BgrImage]:
    """Return three parts of the sample image and one image of noise: uint8 [height, width, 3], BGR.

    Args:
        input_size: (height, width) of the images, pixels. A part is smaller if the sample image is smaller.

    Examples:
        >>> [image.shape for image in sample_images((416, 736))]
        [(416, 736, 3), (416, 736, 3), (416, 736, 3), (416, 736, 3)]
    """
    forest = read_image(FOREST)
    height, width = (min(side, limit) for side, limit in zip(input_size, forest.shape[:2], strict=True))
    lefts = np.linspace(0, forest.shape[1] - width, 3).astype(int)
    windows = [forest[:height, left : left + width] for left in lefts]
    return [*windows, np.random.default_rng(0).integers(0, 256, (*input_size, 3), np.uint8)]
