"""A small checkpoint, its ONNX and its engine, each made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from engines.tensorrt.builder import build_engine
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.retinanet import RetinaNet
from tests.conftest import made_once
from tests.engines.runner.world import OPTIONS
from tests.models import TINY, contract_of, lively


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny model that finds boxes, with an input of 128×160 pixels."""
    torch.manual_seed(0)
    model = lively(RetinaNet(TINY))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    Checkpoint(contract_of(model), model.config, dict(model.state_dict())).save(path)
    return path


@pytest.fixture(scope="package")
def tiny_onnx(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as an ONNX with a dynamic batch, exported once for all workers of a run."""
    from retina_edge.export import main as export

    def make(folder: Path) -> None:
        assert export([str(checkpoint), "-o", str(folder / "tiny.onnx"), "--batch", "dynamic"]) == 0

    return made_once(tmp_path_factory, "tiny", make) / "tiny.onnx"


@pytest.fixture(scope="package")
def tiny_engine(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the ONNX for up to 3 images, which costs the emulator little. ``model.onnx`` lies beside it."""

    def make(folder: Path) -> None:
        shutil.copy(tiny_onnx, folder / "model.onnx")
        build_engine(folder / "model.onnx", folder / "model.engine", OPTIONS)

    return made_once(tmp_path_factory, "tiny engine", make) / "model.engine"
