"""Fixtures shared by all tests: real labelled imagery and small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy.typing as npt
import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def treecrowns() -> Path:
    """Folder of the validation tiles: ``val.json`` and ``images/``, 16 tiles of 400×400 pixels, 296 boxes."""
    return DATA / "treecrowns"


@pytest.fixture(scope="session")
def frames(treecrowns: Path) -> list[npt.NDArray[Any]]:
    """Four real frames, BGR uint8 [400, 400, 3]."""
    return [cv2.imread(str(path)) for path in sorted((treecrowns / "images").glob("*.jpg"))[:4]]
