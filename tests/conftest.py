"""Fixtures shared by all tests: real labelled imagery and small models."""

from __future__ import annotations

import json
from collections import Counter
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


@pytest.fixture(scope="session")
def tiny_coco(treecrowns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file with the four validation tiles that have most boxes; its images are in ``treecrowns/images``."""
    content = json.loads((treecrowns / "val.json").read_text())
    counts = Counter(annotation["image_id"] for annotation in content["annotations"])
    ids = {image_id for image_id, _ in counts.most_common(4)}
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in ids]
    path = tmp_path_factory.mktemp("coco") / "tiny.json"
    path.write_text(json.dumps(content))
    return path
