"""Fixtures of the runner's tests: a machine with a GPU that is none."""

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
    """A little larger than the engine's input, so that they are resized and trees stay trees."""
    return [np.ascontiguousarray(frame[-240:, -232:]) for frame in frames]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path) -> World:
    """One with an engine of TensorRT-RTX."""
    return World(monkeypatch, Driver(seed=1), engine, tmp_path)


@pytest.fixture(params=KINDS)
def any_world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """Each kind of engine in turn."""
    return World(monkeypatch, Driver(seed=1), engine, tmp_path, **KINDS[request.param])
