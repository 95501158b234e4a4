"""The validation tiles as YOLO and Pascal VOC data sets, written by supervision."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import supervision


@pytest.fixture(scope="package")
def sets(treecrowns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the validation tiles as ``yolo`` and ``voc``."""
    folder = tmp_path_factory.mktemp("sets")
    data = supervision.DetectionDataset.from_coco(str(treecrowns / "images"), str(treecrowns / "val.json"))
    yolo, voc = folder / "yolo", folder / "voc"
    data.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
    data.as_pascal_voc(str(voc / "JPEGImages"), str(voc / "Annotations"))
    (yolo / "data.yaml").write_text("train: images\nnc: 1\nnames: [tree]\n")
    return folder


@pytest.fixture
def yolo(sets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sets / "yolo", tmp_path / "yolo"))


@pytest.fixture
def voc(sets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sets / "voc", tmp_path / "voc"))
