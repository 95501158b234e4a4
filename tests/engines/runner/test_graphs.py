"""Tests of the runner's CUDA graphs, on stand-ins: capture, retries, the log if there are none, and the option."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.onnx.onnx_executor import OnnxExecutor
from engines.runner.engine_executor import EngineExecutor
from engines.tensorrt.backend import TENSORRT, TENSORRT_RTX
from engines.tensorrt.build_options import KERNELS
from engines.tensorrt.passport import read_passport
from retina_edge.detector import Detector
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World, check

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]


def test_a_graph_contains_everything_but_the_upload(any_world: World, small_frames: Frames) -> None:
    """A graph is captured once for a slot and a batch size, and again after the memory for its frames has grown."""
    executor, bindings = EngineExecutor(any_world.engine, in_flight=1), any_world.bindings
    rtx = any_world.trt.name == TENSORRT_RTX
    counts = []
    for batch in (
        small_frames[:1],
        small_frames[1:2],
        small_frames[:2],
        small_frames[:1],
        [np.tile(small_frames[0], (2, 3, 1))],
        small_frames[:1],
    ):
        executor.result(executor.submit(batch))
        counts.append((len(bindings.graphs), bindings.launches))
    if rtx:
        assert any_world.trt.strategy == "whole graph"
        assert counts == [(0, 0)] * 6
    elif executor.batch:
        assert counts == [(1, 0), (1, 1), (1, 1), (1, 2), (1, 2), (1, 3)]
    else:
        assert counts == [(1, 0), (1, 1), (1, 1), (2, 1), (1, 1), (1, 2)]
    any_world.driver.log.clear()
    executor.result(executor.submit(small_frames[1:2]))
    stages = [name.partition(" ")[0] for name in any_world.driver.log]
    assert stages[:5] == ["to", "event", "wait", "letterbox", "engine"]
    assert len(stages[5:-2]) == (3 if read_passport(any_world.engine).postprocess == KERNELS else 0)
    assert stages[-2:] == ["to", "event"]
    executor.close()
    any_world.check_nothing_is_left()


@pytest.mark.parametrize(
    ("fails", "words"),
    [
        ("cuStreamBeginCapture", "cuStreamBeginCapture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),
        ("cuStreamEndCapture", "cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
        ("cuGraphInstantiate", 'cuGraphInstantiate: Function "cuGraphInstantiateWithFlags" not found'),
        ("import", "CUDA graphs: expected the package cuda-bindings, found none"),
    ],
)
def test_without_graphs_each_kernel_is_launched_separately(
    monkeypatch: pytest.MonkeyPatch,
    engine: Path,
    tmp_path: Path,
    small_frames: Frames,
    caplog: pytest.LogCaptureFixture,
    fails: str,
    words: str,
) -> None:
    world = World(monkeypatch, Driver(), engine, tmp_path, backend=TENSORRT)
    world.bindings.fails = fails
    if fails == "import":
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    reference = OnnxExecutor(engine.with_suffix(".onnx"))
    executor = EngineExecutor(world.engine)
    for frame in small_frames[:3]:
        check(executor.result(executor.submit([frame])), reference.result(reference.submit([frame])))
    assert caplog.text.count("no CUDA graph, each kernel is launched separately: " + words) == 1
    assert world.bindings.launches == 0
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize("operation", ["engine", "nms", "letterbox"])
def test_a_capture_that_another_thread_invalidates_is_retried(
    monkeypatch: pytest.MonkeyPatch,
    engine: Path,
    tmp_path: Path,
    small_frames: Frames,
    caplog: pytest.LogCaptureFixture,
    operation: str,
) -> None:
    world = World(monkeypatch, Driver(), engine, tmp_path, backend=TENSORRT)
    executor = EngineExecutor(world.engine, in_flight=1)
    for fails in (True, True, False, False):
        world.driver.fails_in_capture = operation if fails else ""
        assert executor.result(executor.submit(small_frames[:1])).num_detections[0] > 3
    assert (len(world.bindings.graphs), world.bindings.launches) == (1, 1)
    assert not caplog.text
    world.driver.fails_in_capture = operation
    for _ in range(3):
        assert executor.result(executor.submit(small_frames[:2])).num_detections[0] > 3
    message = f"no CUDA graph, each kernel is launched separately: capturing the work: {operation}"
    assert caplog.text.count(message) == 1
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize("backend", [TENSORRT, TENSORRT_RTX])
def test_auxiliary_streams_do_not_wait_for_other_streams(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames, backend: str
) -> None:
    world = World(monkeypatch, Driver(), engine, tmp_path, backend=backend)
    world.trt.aux_streams = 2
    with Detector.load(world.engine) as detector:
        for _ in range(3):
            assert len(detector(small_frames[0], score=detector.score_threshold)) > 3
    world.check_nothing_is_left()


@pytest.mark.parametrize("backend", [TENSORRT, TENSORRT_RTX])
def test_graphs_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames, backend: str
) -> None:
    world = World(monkeypatch, Driver(), engine, tmp_path, backend=backend)
    executor = EngineExecutor(world.engine, cuda_graph=False)
    for frame in small_frames[:3]:
        executor.result(executor.submit([frame]))
    assert (world.bindings.launches, world.trt.strategy) == (0, "disabled" if backend == TENSORRT_RTX else "")
    executor.close()
    world.check_nothing_is_left()
