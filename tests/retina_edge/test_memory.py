"""Detectors on a CPU do not leak memory (for the runner on a GPU, see ``tests/engines/runner/test_gpu.py``)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.torch_export import export_onnx
from retina_edge.detector import Detector
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively

pytestmark = pytest.mark.start_first

SIZE = (64, 64)
FRAME = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
# Bytes that allocators may keep. A leak of the network's input in each round (49 KB) would be 10 MB in the fewest
# rounds of detecting; a leak of a model (3 MB) in the fewest rounds of loading would be 24 MB.
TOLERANCE = 8e6
WINDOWS = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model small enough for ten thousand rounds, as a checkpoint and as an ONNX."""
    torch.manual_seed(0)
    model = lively(RetinaNet(TINY))
    contract = contract_of(model, SIZE)
    folder = tmp_path_factory.mktemp("memory")
    paths = {".pt": folder / "model.pt", ".onnx": folder / "model.onnx"}
    Checkpoint(contract, model.config, dict(model.state_dict())).save(paths[".pt"])
    export_onnx(model, contract, paths[".onnx"], batch=1, images=[FRAME])
    return paths


def rounds_of(*, onnx: tuple[int, int], pt: tuple[int, int]) -> pytest.MarkDecorator:
    """Run a test for both kinds of model, with the number of rounds of the quick and of the slow test."""
    slow = [pytest.param(kind, counts[1], marks=pytest.mark.slow) for kind, counts in ((".onnx", onnx), (".pt", pt))]
    return pytest.mark.parametrize(("kind", "rounds"), [(".onnx", onnx[0]), (".pt", pt[0]), *slow])


@rounds_of(onnx=(500, 10_000), pt=(200, 1_000))
def test_detecting_does_not_leak(models: dict[str, Path], kind: str, rounds: int) -> None:
    with Detector.load(models[kind], device="cpu") as detector:
        assert len(detector(FRAME)) > 0
        assert growth(lambda: detector(FRAME), rounds) < TOLERANCE


@rounds_of(onnx=(12, 100), pt=(8, 30))
def test_loading_and_closing_do_not_leak(models: dict[str, Path], kind: str, rounds: int) -> None:
    def once() -> None:
        with Detector.load(models[kind], device="cpu") as detector:
            detector(FRAME)

    assert growth(once, rounds) < TOLERANCE


def growth(once: Callable[[], object], rounds: int) -> float:
    """Return the bytes by which memory grows over many rounds, after warm-up rounds that fill the allocators' pools."""
    for _ in range(rounds // 10):
        once()
    # The minimum over several windows: a leak grows in every window, the allocators' own memory varies.
    return min(_growth(once, rounds // WINDOWS) for _ in range(WINDOWS)) * WINDOWS


def _growth(once: Callable[[], object], rounds: int) -> float:
    before = resident()
    for _ in range(rounds):
        once()
    return resident() - before


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
