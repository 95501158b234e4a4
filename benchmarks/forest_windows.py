"""Calibration images: windows of the sample image, as large as the sample model's input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from retina_edge.assets import FOREST
from retina_edge.imaging.image_file import read_image
from retina_edge.sources.flight import WINDOW

ROWS, COLUMNS = 4, 16


def write_windows(folder: Path) -> list[Path]:
    """Write 64 overlapping windows that together cover the whole sample image, and return their PNG files."""
    forest = read_image(FOREST)
    tops = np.linspace(0, forest.shape[0] - WINDOW[0], ROWS).astype(int)
    lefts = np.linspace(0, forest.shape[1] - WINDOW[1], COLUMNS).astype(int)
    paths = []
    for number, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        paths.append(folder / f"{number:02}.png")
        window = forest[top : top + WINDOW[0], left : left + WINDOW[1]]
        if not cv2.imwrite(str(paths[-1]), window):
            raise OSError(f"{paths[-1]}: cannot be written")
    return paths
