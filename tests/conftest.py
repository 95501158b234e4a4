"""Fixtures shared by all tests: real labelled imagery and small models."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def treecrowns() -> Path:
    """Folder of the validation tiles: ``val.json`` and ``images/``, 16 tiles of 400×400 pixels, 296 boxes."""
    return DATA / "treecrowns"


@pytest.fixture(scope="session")
def frames(treecrowns: Path) -> list[npt.NDArray[np.uint8]]:
    """Four real frames, BGR uint8 [400, 400, 3]."""
    paths = sorted((treecrowns / "images").glob("*.jpg"))[:4]
    return [np.asarray(cv2.imread(str(path)), np.uint8) for path in paths]
