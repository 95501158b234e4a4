"""Tests of the cache beside an engine that holds the kernels that TensorRT-RTX compiled for this GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.runner.engine_executor import EngineExecutor
from engines.tensorrt.passport import cache_path
from retina_edge.detector import Detector
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.runner.world import World

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]


def test_compiled_kernels_are_saved_beside_the_engine(world: World) -> None:
    cache_path(world.engine).unlink(missing_ok=True)
    EngineExecutor(world.engine).close()
    assert world.trt.loaded is None
    assert cache_path(world.engine).read_bytes() == b"compiled"
    EngineExecutor(world.engine).close()
    assert world.trt.loaded == b"compiled"
    world.trt.accepts, world.trt.compiled = False, b"for another driver"
    EngineExecutor(world.engine).close()
    assert cache_path(world.engine).read_bytes() == b"for another driver"
    cache_path(world.engine).unlink()


def test_without_a_serialized_cache_no_file_is_written(world: World, small_frames: Frames) -> None:
    """TensorRT-RTX does not serialize its cache if the driver has no fingerprint of the GPU."""
    cache_path(world.engine).unlink(missing_ok=True)
    world.trt.compiled = None
    with Detector.load(world.engine) as detector:
        for frame in small_frames:
            assert len(detector(frame, score=detector.score_threshold)) > 3
    assert not cache_path(world.engine).exists()
    world.check_nothing_is_left()


def test_a_cache_that_cannot_be_read_is_no_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    cache_path(world.engine).unlink(missing_ok=True)
    cache_path(world.engine).mkdir()
    try:
        EngineExecutor(world.engine).close()
    finally:
        cache_path(world.engine).rmdir()
    assert "cannot be read, so this start compiles the kernels again" in caplog.text
    world.check_nothing_is_left()


def test_the_cache_is_saved_after_the_first_frame(world: World, small_frames: Frames) -> None:
    cache_path(world.engine).unlink(missing_ok=True)
    executor = EngineExecutor(world.engine)
    ticket = executor.submit(small_frames[:1])
    assert not cache_path(world.engine).exists()
    executor.result(ticket)
    assert cache_path(world.engine).read_bytes() == b"compiled"
    executor.close()
    cache_path(world.engine).unlink()


def test_a_cache_that_cannot_be_saved_is_no_error(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError("read-only file system")

    cache_path(world.engine).unlink(missing_ok=True)
    monkeypatch.setattr("engines.runner.tensorrt_network.atomic_file", refuse)
    EngineExecutor(world.engine).close()
    assert "so the next start compiles the kernels again" in caplog.text
    world.check_nothing_is_left()
