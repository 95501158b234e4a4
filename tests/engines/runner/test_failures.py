"""Tests of the runner's errors, on stand-ins: what they say, and that all resources are freed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import DeviceError
from engines.core.machine import Machine
from engines.onnx.onnx_executor import OnnxExecutor
from engines.runner.engine_executor import EngineExecutor
from retina_edge.assets import MODEL
from retina_edge.detector import Detector
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.runner.world import World

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]
ALLOCATIONS = 22  # number of allocations when an engine is loaded


def test_the_device_selects_the_gpu(world: World) -> None:
    Detector.load(world.engine, device="cuda:0", in_flight=1).close()
    with pytest.raises(DeviceError, match=r"GPU 1: expected an NVIDIA GPU and its driver, found none"):
        Detector.load(world.engine, device="cuda:1")
    with pytest.raises(DeviceError, match="expected device auto, cuda or cuda:N for an engine, got 'cpu'"):
        Detector.load(world.engine, device="cpu")


def test_an_engine_for_another_gpu_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Machine("NVIDIA GeForce RTX 2080", "7.5", "580.95", "")
    monkeypatch.setattr("engines.runner.engine_executor.this_machine", lambda _device: other)
    with pytest.raises(DeviceError, match=r"expected a GPU of sm86, .* found NVIDIA GeForce RTX 2080"):
        EngineExecutor(world.engine)
    world.check_nothing_is_left()


def test_an_engine_of_tensorrt_rtx_on_an_h200_is_refused_before_the_backend_is_loaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_runtime(*_: object, **__: object) -> None:
        pytest.fail("the advice to install or to rebuild with this backend would be wrong")

    h200 = Machine("NVIDIA H200", "9.0", "580.159.04", "")
    monkeypatch.setattr("engines.runner.engine_executor.this_machine", lambda _device: h200)
    monkeypatch.setattr("engines.runner.engine_executor.find_runtime", find_runtime)
    with pytest.raises(DeviceError, match=r"model\.engine: .*H200 .*; use TensorRT on this GPU: retina-edge build"):
        EngineExecutor(world.engine)
    world.check_nothing_is_left()


def test_wrong_frames_are_refused(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    with pytest.raises(ValueError, match=r"expected a frame .* got float32 \[188, 168, 3\]"):
        executor.submit([small_frames[0].astype(np.float32)])
    with pytest.raises(ValueError, match="expected 1 to 3, the engine's batch, got 4"):
        executor.submit(small_frames[:4])
    with pytest.raises(ValueError, match="expected 1 to 3, the engine's batch, got 0"):
        executor.submit([])
    executor.close()
    executor.close()
    with pytest.raises(ValueError, match="the detector is closed; load it again"):
        executor.submit(small_frames[:1])
    world.check_nothing_is_left()


def test_a_ticket_from_another_executor_is_refused(world: World, small_frames: Frames) -> None:
    first, second = EngineExecutor(world.engine), EngineExecutor(world.engine)
    ticket = first.submit(small_frames[:1])
    with pytest.raises(ValueError, match="got one from another executor"):
        second.result(ticket)
    host = OnnxExecutor(MODEL).submit(small_frames[:1])
    with pytest.raises(ValueError, match="expected one from this executor's submit"):
        first.result(host)
    first.close()
    with pytest.raises(ValueError, match="the detector is closed"):
        first.result(ticket)
    second.close()
    del ticket
    world.check_nothing_is_left()


@pytest.mark.parametrize("allocation", range(ALLOCATIONS))
def test_a_failed_allocation_leaves_no_memory_allocated(world: World, allocation: int) -> None:
    world.driver.fail_at = allocation
    with pytest.raises(DeviceError, match="expected memory for this model, found too little"):
        EngineExecutor(world.engine)
    world.check_nothing_is_left()


def test_every_allocation_was_tested(world: World) -> None:
    EngineExecutor(world.engine).close()
    assert world.driver._allocated == ALLOCATIONS


def test_after_a_failed_allocation_for_a_large_frame_the_executor_works(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    expected = executor.result(executor.submit(small_frames[:1]))
    world.driver.fail_at = world.driver._allocated + 1
    with pytest.raises(DeviceError, match="keep fewer frames in flight"):
        executor.submit([np.tile(small_frames[0], (3, 3, 1))])
    world.driver.fail_at = None
    again = executor.result(executor.submit(small_frames[:1]))
    assert again.boxes.tobytes() == expected.boxes.tobytes()
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            "start",
            "cannot start; it says: CUDA initialization failure; update NVIDIA's driver, or install the library for",
        ),
        ("deserialize", "cannot load the engine; it says: no kernel image is available; fix it with retina-edge build"),
        ("context", "cannot create an execution context; it says: nothing; close other programs on the GPU"),
    ],
)
def test_an_engine_that_tensorrt_cannot_load_is_an_error(world: World, call: str, words: str) -> None:
    world.trt.refuses = call
    with pytest.raises(DeviceError) as caught:
        EngineExecutor(world.engine)
    assert words in str(caught.value)
    del caught
    world.check_nothing_is_left()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("context", "cannot create an execution context"),
        ("address", "refuses the address of "),
        ("shape", "refuses the input shape"),
        ("enqueue", "cannot run the engine"),
    ],
)
def test_an_executor_works_after_tensorrt_could_not_run(
    world: World, small_frames: Frames, call: str, words: str
) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    world.trt.refuses = call
    for _ in range(3):
        with pytest.raises(DeviceError, match=words):
            executor.submit(small_frames[:2])
    world.trt.refuses = ""
    assert executor.result(executor.submit(small_frames[:2])).num_detections[0] > 3
    executor.close()
    world.check_nothing_is_left()
