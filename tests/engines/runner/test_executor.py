"""Tests of the runner on stand-ins for the driver and for TensorRT's runtime.

Kernels run in the emulator, streams run late and in a random order, and the network runs in ONNX Runtime. The engines
and their passports are made by TensorRT-RTX itself. The detections are compared with those of ``OnnxExecutor``.
``test_gpu.py`` tests the runner on a GPU.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import DeviceError
from engines.core.executor import GPU, POSTPROCESS, STAGES
from engines.onnx.onnx_executor import OnnxExecutor
from engines.runner.engine_executor import EngineExecutor
from engines.runner.gpu_executor import _close_all
from engines.tensorrt.backend import TENSORRT, TENSORRT_LEAN
from engines.tensorrt.build_options import PLUGIN
from engines.tensorrt.passport import read_passport
from retina_edge.detector import Detector
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import KINDS, World, check
from tests.parity import SURE

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]
# A fixed batch costs the emulator three times as much; the tests of all kinds cover its padding and its graphs.
few_kinds = pytest.mark.parametrize(
    "any_world",
    [pytest.param(kind, marks=pytest.mark.slow if "fixed batch" in kind else ()) for kind in KINDS],
    indirect=True,
)


def test_detections_are_those_of_onnx_runtime(any_world: World, engine: Path, small_frames: Frames) -> None:
    reference = OnnxExecutor(engine.with_suffix(".onnx"))
    executor = EngineExecutor(any_world.engine, in_flight=1)
    black = executor.result(executor.submit([np.zeros((*executor.contract.input_size, 3), np.uint8)]))
    for batch in (small_frames[:1], small_frames[:3], small_frames[2:4], small_frames[:3]):
        found = executor.result(executor.submit(batch))
        check(found, reference.result(reference.submit(batch)))
        assert len(found.num_detections) == (executor.batch or len(batch))
        for padding in range(len(batch), len(found.num_detections)):
            np.testing.assert_array_equal(found.boxes[padding], black.boxes[0])
    assert any_world.trt.runs == ([3] * 5 if executor.batch else [1, 1, 3, 2, 3])
    executor.close()
    any_world.check_nothing_is_left()


@few_kinds
def test_results_of_several_submissions_in_flight_come_in_any_order(any_world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(any_world.engine, in_flight=2)
    alone = [executor.result(executor.submit([frame])) for frame in small_frames]
    tickets = [executor.submit([frame]) for frame in small_frames]  # twice as many as there are slots
    for index in (3, 0, 2, 1, 3):
        detections = executor.result(tickets[index])
        for found, expected in zip(detections, alone[index], strict=True):
            assert found.tobytes() == expected.tobytes()
    executor.close()
    any_world.check_nothing_is_left()


@few_kinds
def test_slots_share_a_context_if_the_outputs_are_raw_heads(any_world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(any_world.engine, in_flight=3)
    for frame in small_frames:  # more than there are slots
        executor.submit([frame])
    contexts = sum(name == "context" for name in any_world.trt.alive)
    assert contexts == (3 if read_passport(any_world.engine).postprocess == PLUGIN else 1)
    executor.close()
    any_world.check_nothing_is_left()


@few_kinds
def test_stages_are_measured_between_events(any_world: World, small_frames: Frames) -> None:
    """The stand-in's clock ticks with every event."""
    executor = EngineExecutor(any_world.engine)
    before = executor.submit(small_frames[:1])
    found = executor.measure(small_frames[:2])
    plugin = read_passport(any_world.engine).postprocess == PLUGIN
    stages = [stage for stage in STAGES if not (plugin and stage == POSTPROCESS)]
    assert list(found) == [*stages, GPU]
    assert all(found[stage] == 1 for stage in stages[1:])
    assert found[GPU] == 3  # the events uploaded and done are between the two measured events
    assert executor.result(before).num_detections[0] > 3
    executor.close()
    any_world.check_nothing_is_left()


def test_the_next_frames_are_uploaded_while_the_first_are_computed(world: World, small_frames: Frames) -> None:
    """No operation on the copy stream waits for the compute stream."""
    executor = EngineExecutor(world.engine)
    world.driver.log.clear()
    executor.submit(small_frames[:1])
    executor.submit(small_frames[1:2])
    copies, compute = (stream for _, stream in sorted(world.driver.streams.items()))
    while copies.ready():
        copies.step()
    # The header, which only the first submission of a slot and a frame size needs, and the frame.
    assert [name.partition(" ")[0] for name in world.driver.log] == ["to", "to", "event", "to", "to", "event"]
    assert compute.ready()
    del copies, compute  # while the context is current
    executor.close()


def test_memory_for_large_frames_is_kept_for_smaller_ones(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    large = np.tile(small_frames[0], (2, 3, 1))
    executor.result(executor.submit([large]))
    before = set(world.driver.memory), set(world.driver.pinned)
    for frame in (small_frames[1], small_frames[2][:50], large, small_frames[3][:, :1]):
        executor.result(executor.submit([frame]))
    assert (set(world.driver.memory), set(world.driver.pinned)) == before
    executor.close()
    world.check_nothing_is_left()


def test_several_threads_get_their_own_detections(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    expected = [executor.result(executor.submit([frame])) for frame in small_frames]
    errors: list[BaseException] = []
    # The waiting thread runs the streams of the stand-in, so only one thread may wait at once.
    lock, proceed = threading.Lock(), world.driver.proceed

    def one_at_a_time(until: object) -> None:
        with lock:
            proceed(until)  # type: ignore[arg-type]

    world.driver.proceed = one_at_a_time  # type: ignore[method-assign]

    def work(index: int) -> None:
        try:
            for _ in range(2):
                found = executor.result(executor.submit([small_frames[index]]))
                assert found.boxes.tobytes() == expected[index].boxes.tobytes()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    executor.close()
    world.check_nothing_is_left()


def test_closing_in_another_thread_while_a_result_is_waited_for_is_an_error(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    ticket = executor.submit(small_frames[:1])
    proceed = world.driver.proceed

    def proceed_and_close(until: Callable[[], bool]) -> None:
        world.driver.proceed = proceed  # type: ignore[method-assign]
        proceed(until)
        thread = threading.Thread(target=executor.close)
        thread.start()
        thread.join()

    world.driver.proceed = proceed_and_close  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the detector is closed"):
        executor.result(ticket)
    gc.collect()
    world.check_nothing_is_left()


def test_an_engine_works_after_another_one_is_closed(world: World, small_frames: Frames) -> None:
    first, second = EngineExecutor(world.engine), EngineExecutor(world.engine)
    expected = first.result(first.submit(small_frames[:2]))
    first.close()
    del first
    found = second.result(second.submit(small_frames[:2]))
    assert found.boxes.tobytes() == expected.boxes.tobytes()
    second.close()
    world.check_nothing_is_left()


def test_integrated_memory_is_not_copied(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames
) -> None:
    world = World(monkeypatch, Driver(integrated=True), engine, tmp_path)
    executor, reference = EngineExecutor(world.engine), OnnxExecutor(engine.with_suffix(".onnx"))
    check(executor.result(executor.submit(small_frames[:2])), reference.result(reference.submit(small_frames[:2])))
    assert not any(name.startswith("to ") for name in world.driver.log)
    executor.close()
    world.check_nothing_is_left()


def test_new_thresholds_apply_from_the_next_submission_on(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    before = executor.submit(small_frames[:1])
    executor.set_thresholds(score_threshold=0.5)
    after = executor.submit(small_frames[:1])
    executor.set_thresholds(score_threshold=executor.contract.score_threshold, iou_threshold=0.01)
    third = executor.result(executor.submit(small_frames[:1]))
    first, second = executor.result(before), executor.result(after)
    assert second.num_detections[0] == (first.scores[0] > 0.5).sum()
    assert third.num_detections[0] < first.num_detections[0]
    with pytest.raises(ValueError, match=r"iou_threshold: expected 0 <= iou_threshold <= 1, got 1\.5"):
        executor.set_thresholds(iou_threshold=1.5)
    executor.close()


def test_thresholds_out_of_range_change_nothing(world: World, small_frames: Frames) -> None:
    with Detector.load(world.engine) as detector:
        expected = detector(small_frames[0], score=detector.score_threshold)
        with pytest.raises(ValueError, match=r"score_threshold: expected 0 <= score_threshold < 1, got -0\.1"):
            detector.set_thresholds(score_threshold=-0.1, iou_threshold=0.1)
        assert len(detector(small_frames[0], score=detector.score_threshold)) == len(expected)
        detector.set_thresholds(score_threshold=0.6)
        assert len(detector(small_frames[0], score=detector.score_threshold)) == (expected.scores > 0.6).sum()


def test_thresholds_built_into_the_engine_cannot_be_changed(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path
) -> None:
    world = World(monkeypatch, Driver(), engine, tmp_path, **KINDS["TensorRT, plugins"])
    executor = EngineExecutor(world.engine)
    with pytest.raises(ValueError, match="expected an engine built with --postprocess kernels"):
        executor.set_thresholds(score_threshold=0.5)
    executor.close()


def test_the_detector_runs_an_engine(world: World, engine: Path, small_frames: Frames) -> None:
    with Detector.load(world.engine) as detector, Detector.load(engine.with_suffix(".onnx")) as reference:
        for found, expected in zip(detector(small_frames), reference(small_frames), strict=True):
            assert abs(len(found.above(SURE)) - len(expected.above(SURE))) <= 1
    world.check_nothing_is_left()


@pytest.mark.parametrize("lean_runtime", ["inside", "separate"])
def test_the_lean_runtime_runs_a_version_compatible_engine(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames, lean_runtime: str
) -> None:
    """The stand-in demands that host code is allowed for an engine with a runtime inside, and for no other."""
    kind = {"backend": TENSORRT, "runtime": TENSORRT_LEAN, "lean_runtime": lean_runtime}
    world = World(monkeypatch, Driver(seed=1), engine, tmp_path, **kind)
    reference = OnnxExecutor(engine.with_suffix(".onnx"))
    executor = EngineExecutor(world.engine, in_flight=1)
    check(executor.result(executor.submit(small_frames[:2])), reference.result(reference.submit(small_frames[:2])))
    executor.close()
    world.check_nothing_is_left()


def test_the_lean_runtime_loads_no_other_engine(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path) -> None:
    world = World(monkeypatch, Driver(), engine, tmp_path, backend=TENSORRT, runtime=TENSORRT_LEAN)
    with pytest.raises(DeviceError, match=r"expected an engine of build --version-compatible for tensorrt-lean, got"):
        EngineExecutor(world.engine)
    assert not world.driver._allocated
    world.check_nothing_is_left()


def test_an_executor_that_is_not_closed_closes_itself(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    executor.submit(small_frames[:1])
    del executor
    gc.collect()
    world.check_nothing_is_left()
    left_open = EngineExecutor(world.engine)
    left_open.submit(small_frames[:1])
    _close_all()  # as when the process ends
    world.check_nothing_is_left()
    with pytest.raises(ValueError, match="closed"):
        left_open.submit(small_frames[:1])
