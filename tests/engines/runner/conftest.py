"""Fixtures of the runner's tests: a simulated machine with a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import KINDS, World

Frames = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="session")
def small_frames(frames: Frames) -> Frames:
    """Real frames a little larger than the engine's input, so that they are resized, but trees are still detected."""
    return [np.ascontiguousarray(frame[-240:, -232:]) for frame in frames]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path) -> World:
    """A simulated machine with an engine of TensorRT-RTX."""
    return World(monkeypatch, Driver(seed=1), engine, tmp_path)


@pytest.fixture(params=KINDS)
def any_world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """A simulated machine with each kind of engine in turn."""
    return World(monkeypatch, Driver(seed=1), engine, tmp_path, **KINDS[request.param])
