"""A small trained-looking checkpoint, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny lively model of 128×160 pixels."""
    torch.manual_seed(0)
    model = lively(RetinaNet(TINY))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    Checkpoint(contract_of(model), model.config, dict(model.state_dict())).save(path)
    return path


@pytest.fixture(scope="package")
def tiny_onnx(checkpoint: Path) -> Path:
    """That one as an ONNX of any batch."""
    from retina_edge.export import main as export

    path = checkpoint.with_suffix(".onnx")
    assert export([str(checkpoint), "-o", str(path), "--batch", "dynamic"]) == 0
    return path
