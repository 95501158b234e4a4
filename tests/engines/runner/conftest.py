"""Fixtures of the runner's tests: a simulated machine with a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import KINDS, World

# A program, not a module: to import it needs the made-up driver.
collect_ignore = ["made_up_driver"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path) -> World:
    """A simulated machine with an engine of TensorRT-RTX."""
    return World(monkeypatch, Driver(seed=1), engine, tmp_path)


@pytest.fixture(params=KINDS)
def any_world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """A simulated machine with each kind of engine in turn."""
    return World(monkeypatch, Driver(seed=1), engine, tmp_path, **KINDS[request.param])
