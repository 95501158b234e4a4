"""The runner, with the driver and TensorRT's runtime replaced at their boundaries.

Kernels run in the emulator, streams late and in any order, and the network in ONNX Runtime; the engines and their
passports are TensorRT-RTX's own. What comes out is held against ``OnnxExecutor``. On a GPU none of it has run yet.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.backend import TENSORRT, TENSORRT_RTX
from engines.build_options import KERNELS, PLUGIN
from engines.errors import DeviceError
from engines.executor import GPU, POSTPROCESS, STAGES
from engines.machine import Machine
from engines.names import OUTPUTS
from engines.onnx_runtime import OnnxExecutor
from engines.passport import cache_path, read_passport
from engines.plugins.reference import RawDetections
from engines.runner.engine import EngineExecutor
from engines.runner.executor import _close_all
from retina_edge.detector import Detector
from retina_edge.sample import MODEL
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]
# The letterbox of the kernel and of OpenCV differ by a grey level now and then, and so the scores and boxes a little.
SCORE, PIXELS = 0.02, 0.5
SURE = 0.5
ALLOCATIONS = 22  # until an engine is loaded


@pytest.fixture(scope="session")
def frames(frames: Frames) -> Frames:
    """A little larger than the engine's input, so that they are resized and trees stay trees."""
    return [np.ascontiguousarray(frame[-240:, -232:]) for frame in frames]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, engine: Path) -> World:
    return World(monkeypatch, Driver(seed=1), engine)


BOXES = [{"name": name, "type": "float", "shape": []} for name in OUTPUTS]
KINDS: dict[str, dict[str, Any]] = {
    "TensorRT-RTX": {},
    "TensorRT, raw heads": {"backend": TENSORRT},
    "TensorRT, plugins": {"backend": TENSORRT, "postprocess": PLUGIN, "outputs": BOXES},
    "TensorRT, fixed batch": {"backend": TENSORRT, "batch": (3, 3, 3)},
}


@pytest.fixture(params=KINDS)
def any_world(monkeypatch: pytest.MonkeyPatch, engine: Path, request: pytest.FixtureRequest) -> World:
    return World(monkeypatch, Driver(seed=1), engine, **KINDS[request.param])


def check(found: RawDetections, expected: RawDetections) -> None:
    """What is sure in one is in the other, in the same place."""
    sure = 0
    for n in range(len(expected.num_detections)):
        for box, score in zip(expected.boxes[n], expected.scores[n], strict=True):
            if score < SURE:
                break
            sure += 1
            distance = np.abs(found.boxes[n] - box).max(axis=1)
            nearest = int(distance.argmin())
            assert distance[nearest] < PIXELS
            assert abs(found.scores[n, nearest] - score) < SCORE
    assert sure > 3


def test_detections_are_those_of_onnx_runtime(any_world: World, engine: Path, frames: Frames) -> None:
    reference = OnnxExecutor(engine.with_suffix(".onnx"))
    executor = EngineExecutor(any_world.engine, in_flight=1)
    black = executor.result(executor.submit([np.zeros((*executor.contract.input_size, 3), np.uint8)]))
    for batch in (frames[:1], frames[:3], frames[2:4], frames[:3]):
        found = executor.result(executor.submit(batch))
        check(found, reference.result(reference.submit(batch)))
        assert len(found.num_detections) == (executor.batch or len(batch))
        for missing in range(len(batch), len(found.num_detections)):
            np.testing.assert_array_equal(found.boxes[missing], black.boxes[0])
    assert any_world.trt.runs == ([3] * 5 if executor.batch else [1, 1, 3, 2, 3])
    executor.close()
    any_world.check_nothing_is_left()


def test_several_on_their_way_and_results_in_any_order(any_world: World, frames: Frames) -> None:
    executor = EngineExecutor(any_world.engine, in_flight=2)
    alone = [executor.result(executor.submit([frame])) for frame in frames]
    tickets = [executor.submit([frame]) for frame in frames]  # twice as many as there are slots
    for index in (3, 0, 2, 1, 3):
        found = executor.result(tickets[index])
        for ours, theirs in zip(found, alone[index], strict=True):
            assert ours.tobytes() == theirs.tobytes()
    executor.close()
    any_world.check_nothing_is_left()


def test_a_graph_of_everything_but_the_way_up(any_world: World, frames: Frames) -> None:
    """Recorded once for a slot and a batch size, and again when the memory of its frames has grown."""
    executor, bindings = EngineExecutor(any_world.engine, in_flight=1), any_world.bindings
    rtx = any_world.trt.name == TENSORRT_RTX
    counted = []
    for batch in (frames[:1], frames[1:2], frames[:2], frames[:1], [np.tile(frames[0], (2, 3, 1))], frames[:1]):
        executor.result(executor.submit(batch))
        counted.append((len(bindings.graphs), bindings.launches))
    if rtx:
        assert any_world.trt.strategy == "whole graph"
        assert counted == [(0, 0)] * 6
    elif executor.batch:
        assert counted == [(1, 0), (1, 1), (1, 1), (1, 2), (1, 2), (1, 3)]
    else:
        assert counted == [(1, 0), (1, 1), (1, 1), (2, 1), (1, 1), (1, 2)]
    any_world.driver.log.clear()
    executor.result(executor.submit(frames[1:2]))
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
        ("import", "cuda-bindings: expected it, for CUDA graphs"),
    ],
)
def test_without_graphs_it_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
    engine: Path,
    frames: Frames,
    caplog: pytest.LogCaptureFixture,
    fails: str,
    words: str,
) -> None:
    world = World(monkeypatch, Driver(), engine, backend=TENSORRT)
    world.bindings.fails = fails
    if fails == "import":
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    reference = OnnxExecutor(engine.with_suffix(".onnx"))
    executor = EngineExecutor(world.engine)
    for frame in frames[:3]:
        check(executor.result(executor.submit([frame])), reference.result(reference.submit([frame])))
    assert caplog.text.count("no CUDA graph, each kernel is launched by itself: " + words) == 1
    assert world.bindings.launches == 0
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize("operation", ["engine", "nms", "letterbox"])
def test_a_recording_that_another_thread_breaks_off_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, engine: Path, frames: Frames, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    world = World(monkeypatch, Driver(), engine, backend=TENSORRT)
    executor = EngineExecutor(world.engine, in_flight=1)
    for breaks in (True, True, False, False):
        world.driver.breaks = operation if breaks else ""
        assert executor.result(executor.submit(frames[:1])).num_detections[0] > 3
    assert (len(world.bindings.graphs), world.bindings.launches) == (1, 1)
    assert not caplog.text
    world.driver.breaks = operation
    for _ in range(3):
        assert executor.result(executor.submit(frames[:2])).num_detections[0] > 3
    assert (
        caplog.text.count(f"no CUDA graph, each kernel is launched by itself: while it was recorded: {operation}") == 1
    )
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize("backend", [TENSORRT, TENSORRT_RTX])
def test_what_tensorrt_runs_side_by_side_waits_for_no_other_stream(
    monkeypatch: pytest.MonkeyPatch, engine: Path, frames: Frames, backend: str
) -> None:
    world = World(monkeypatch, Driver(), engine, backend=backend)
    world.trt.aux_streams = 2
    with Detector.load(world.engine) as detector:
        for _ in range(3):
            assert len(detector(frames[0])) > 3
    world.check_nothing_is_left()


def test_slots_share_a_context_behind_raw_heads(any_world: World, frames: Frames) -> None:
    executor = EngineExecutor(any_world.engine, in_flight=3)
    for frame in (*frames, *frames):
        executor.submit([frame])
    contexts = sum(name == "context" for name in any_world.trt.alive)
    assert contexts == (3 if read_passport(any_world.engine).postprocess == PLUGIN else 1)
    executor.close()
    any_world.check_nothing_is_left()


@pytest.mark.parametrize("backend", [TENSORRT, TENSORRT_RTX])
def test_graphs_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, engine: Path, frames: Frames, backend: str
) -> None:
    world = World(monkeypatch, Driver(), engine, backend=backend)
    executor = EngineExecutor(world.engine, cuda_graph=False)
    for frame in frames[:3]:
        executor.result(executor.submit([frame]))
    assert (world.bindings.launches, world.trt.strategy) == (0, "disabled" if backend == TENSORRT_RTX else "")
    executor.close()
    world.check_nothing_is_left()


def test_stages_are_measured_between_events(any_world: World, frames: Frames) -> None:
    """The stand-in's clock ticks with every event."""
    executor = EngineExecutor(any_world.engine)
    before = executor.submit(frames[:1])
    found = executor.measure(frames[:2])
    plugin = read_passport(any_world.engine).postprocess == PLUGIN
    stages = [stage for stage in STAGES if not (plugin and stage == POSTPROCESS)]
    assert list(found) == [*stages, GPU]
    assert all(found[stage] == 1 for stage in stages[1:])
    assert found[GPU] == 3  # uploaded and done lie between
    assert executor.result(before).num_detections[0] > 3
    executor.close()
    any_world.check_nothing_is_left()


def test_the_next_frames_go_up_while_the_first_are_computed(world: World, frames: Frames) -> None:
    """Nothing on the copy stream waits for the compute stream."""
    executor = EngineExecutor(world.engine)
    world.driver.log.clear()
    executor.submit(frames[:1])
    executor.submit(frames[1:2])
    copies, compute = (stream for _, stream in sorted(world.driver.streams.items()))
    while copies.ready():
        copies.step()
    assert [name.partition(" ")[0] for name in world.driver.log] == ["to", "event", "to", "event"]
    assert compute.ready()
    del copies, compute  # while there is a context
    executor.close()


def test_frames_may_grow_and_shrink_and_memory_stays(world: World, frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    large = np.tile(frames[0], (2, 3, 1))
    executor.result(executor.submit([large]))
    before = set(world.driver.memory), set(world.driver.pinned)
    for frame in (frames[1], frames[2][:50], large, frames[3][:, :1]):
        executor.result(executor.submit([frame]))
    assert (set(world.driver.memory), set(world.driver.pinned)) == before
    executor.close()
    world.check_nothing_is_left()


def test_from_several_threads(world: World, frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    expected = [executor.result(executor.submit([frame])) for frame in frames]
    errors: list[BaseException] = []
    # The stand-in's streams are run by whoever waits; the real driver's run by themselves.
    lock, proceed = threading.Lock(), world.driver.proceed

    def one_at_a_time(until: object) -> None:
        with lock:
            proceed(until)  # type: ignore[arg-type]

    world.driver.proceed = one_at_a_time  # type: ignore[method-assign]

    def work(index: int) -> None:
        try:
            for _ in range(3):
                found = executor.result(executor.submit([frames[index]]))
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


def test_a_result_that_is_waited_for_while_another_thread_closes(world: World, frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    ticket = executor.submit(frames[:1])
    proceed = world.driver.proceed

    def closed_meanwhile(until: Callable[[], bool]) -> None:
        world.driver.proceed = proceed  # type: ignore[method-assign]
        proceed(until)
        thread = threading.Thread(target=executor.close)
        thread.start()
        thread.join()

    world.driver.proceed = closed_meanwhile  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the detector is closed"):
        executor.result(ticket)
    gc.collect()
    world.check_nothing_is_left()


def test_two_engines_at_a_time(world: World, frames: Frames) -> None:
    first, second = EngineExecutor(world.engine), EngineExecutor(world.engine)
    expected = first.result(first.submit(frames[:2]))
    first.close()
    del first
    found = second.result(second.submit(frames[:2]))
    assert found.boxes.tobytes() == expected.boxes.tobytes()
    second.close()
    world.check_nothing_is_left()


def test_integrated_memory_is_not_copied(monkeypatch: pytest.MonkeyPatch, engine: Path, frames: Frames) -> None:
    world = World(monkeypatch, Driver(integrated=True), engine)
    executor, reference = EngineExecutor(world.engine), OnnxExecutor(engine.with_suffix(".onnx"))
    check(executor.result(executor.submit(frames[:2])), reference.result(reference.submit(frames[:2])))
    assert not any(name.startswith("to ") for name in world.driver.log)
    executor.close()
    world.check_nothing_is_left()


def test_thresholds_while_it_runs(world: World, frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    before = executor.submit(frames[:1])
    executor.set_thresholds(score_threshold=0.5)
    after = executor.submit(frames[:1])
    executor.set_thresholds(score_threshold=0.05, iou_threshold=0.01)
    apart = executor.result(executor.submit(frames[:1]))
    first, second = executor.result(before), executor.result(after)
    assert second.num_detections[0] == (first.scores[0] > 0.5).sum()
    assert apart.num_detections[0] < first.num_detections[0]
    with pytest.raises(ValueError, match=r"iou_threshold: expected 0 <= iou_threshold < 1, got 1"):
        executor.set_thresholds(iou_threshold=1)
    executor.close()


def test_thresholds_out_of_range_change_nothing(world: World, frames: Frames) -> None:
    with Detector.load(world.engine) as detector:
        expected = detector(frames[0])
        with pytest.raises(ValueError, match=r"score_threshold: expected 0 <= score_threshold < 1, got -0\.1"):
            detector.set_thresholds(score_threshold=-0.1, iou_threshold=0.1)
        assert len(detector(frames[0])) == len(expected)
        detector.set_thresholds(score_threshold=0.6)
        assert len(detector(frames[0])) == (expected.scores > 0.6).sum()


def test_thresholds_in_the_engine_stay(monkeypatch: pytest.MonkeyPatch, engine: Path) -> None:
    world = World(monkeypatch, Driver(), engine, **KINDS["TensorRT, plugins"])
    executor = EngineExecutor(world.engine)
    with pytest.raises(ValueError, match="expected an engine built with --postprocess kernels"):
        executor.set_thresholds(score_threshold=0.5)
    executor.close()


def test_which_gpu(world: World) -> None:
    Detector.load(world.engine, device="cuda:0", in_flight=1).close()
    with pytest.raises(DeviceError, match=r"GPU 1: expected an NVIDIA GPU and its driver, found none"):
        Detector.load(world.engine, device="cuda:1")
    with pytest.raises(DeviceError, match="expected device auto, cuda or cuda:N for an engine, got 'cpu'"):
        Detector.load(world.engine, device="cpu")


def test_through_the_detector(world: World, frames: Frames) -> None:
    with Detector.load(world.engine) as detector, Detector.load(world.engine.parents[1] / "model.onnx") as reference:
        found, expected = detector(frames), reference(frames)
        for ours, theirs in zip(found, expected, strict=True):
            assert abs(len(ours.above(SURE)) - len(theirs.above(SURE))) <= 1
    world.check_nothing_is_left()


def test_wrong_frames_say_what_came(world: World, frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    with pytest.raises(ValueError, match=r"expected a frame .* got float32 \[240, 232, 3\]"):
        executor.submit([frames[0].astype(np.float32)])
    with pytest.raises(ValueError, match="expected 1 to 3, the engine's batch, got 4"):
        executor.submit(frames[:4])
    with pytest.raises(ValueError, match="expected 1 to 3, the engine's batch, got 0"):
        executor.submit([])
    executor.close()
    executor.close()
    with pytest.raises(ValueError, match="the detector is closed; load it again"):
        executor.submit(frames[:1])
    world.check_nothing_is_left()


def test_a_ticket_of_another_executor(world: World, frames: Frames) -> None:
    first, second = EngineExecutor(world.engine), EngineExecutor(world.engine)
    ticket = first.submit(frames[:1])
    with pytest.raises(ValueError, match="got another's"):
        second.result(ticket)
    host = OnnxExecutor(MODEL).submit(frames[:1])
    with pytest.raises(ValueError, match="expected one of this executor's submit"):
        first.result(host)
    first.close()
    with pytest.raises(ValueError, match="the detector is closed"):
        first.result(ticket)
    second.close()
    del ticket
    world.check_nothing_is_left()


@pytest.mark.parametrize("allocation", range(ALLOCATIONS))
def test_no_memory_leaves_none_behind(world: World, allocation: int) -> None:
    world.driver.fail_at = allocation
    with pytest.raises(DeviceError, match="expected memory for this model, found too little"):
        EngineExecutor(world.engine)
    world.check_nothing_is_left()


def test_no_allocation_is_left_untried(world: World) -> None:
    EngineExecutor(world.engine).close()
    assert world.driver._allocated == ALLOCATIONS


def test_no_memory_for_a_larger_frame(world: World, frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    expected = executor.result(executor.submit(frames[:1]))
    world.driver.fail_at = world.driver._allocated + 1
    with pytest.raises(DeviceError, match="keep fewer frames in flight"):
        executor.submit([np.tile(frames[0], (3, 3, 1))])
    world.driver.fail_at = None
    again = executor.result(executor.submit(frames[:1]))  # it goes on
    assert again.boxes.tobytes() == expected.boxes.tobytes()
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("deserialize", "takes no such engine; it says: no kernel image is available; mend it with retina-edge build"),
        ("context", "makes no execution context; it says: nothing; mend it with end other programs"),
    ],
)
def test_tensorrt_refuses_to_load(world: World, call: str, words: str) -> None:
    world.trt.refuses = call
    with pytest.raises(DeviceError) as caught:
        EngineExecutor(world.engine)
    assert words in str(caught.value)
    del caught
    world.check_nothing_is_left()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("context", "makes no execution context"),
        ("address", "takes no address for "),
        ("shape", "takes no input of"),
        ("enqueue", "does not run the engine"),
    ],
)
def test_tensorrt_refuses_to_run(world: World, frames: Frames, call: str, words: str) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    world.trt.refuses = call
    for _ in range(3):
        with pytest.raises(DeviceError, match=words):
            executor.submit(frames[:2])
    world.trt.refuses = ""
    assert executor.result(executor.submit(frames[:2])).num_detections[0] > 3
    executor.close()
    world.check_nothing_is_left()


def test_another_gpu(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Machine("NVIDIA GeForce RTX 2080", "7.5", "580.95", "")
    monkeypatch.setattr("engines.runner.engine.this_machine", lambda _device: other)
    with pytest.raises(DeviceError, match=r"expected a GPU of sm86, .* found NVIDIA GeForce RTX 2080"):
        EngineExecutor(world.engine)
    world.check_nothing_is_left()


def test_what_was_compiled_is_kept_beside_the_engine(world: World) -> None:
    cache_path(world.engine).unlink(missing_ok=True)
    EngineExecutor(world.engine).close()
    assert world.trt.loaded is None
    assert cache_path(world.engine).read_bytes() == b"compiled"
    EngineExecutor(world.engine).close()
    assert world.trt.loaded == b"compiled"
    world.trt.accepts, world.trt.compiled = False, b"of another driver"
    EngineExecutor(world.engine).close()
    assert cache_path(world.engine).read_bytes() == b"of another driver"
    cache_path(world.engine).unlink()


def test_a_gpu_whose_cache_cannot_be_kept(world: World, frames: Frames) -> None:
    """TensorRT-RTX gives none where the driver has no fingerprint of the GPU."""
    cache_path(world.engine).unlink(missing_ok=True)
    world.trt.compiled = None
    with Detector.load(world.engine) as detector:
        for frame in frames:
            assert len(detector(frame)) > 3
    assert not cache_path(world.engine).exists()
    world.check_nothing_is_left()


def test_a_cache_that_cannot_be_read_is_no_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    cache_path(world.engine).unlink(missing_ok=True)
    cache_path(world.engine).mkdir()
    try:
        EngineExecutor(world.engine).close()
    finally:
        cache_path(world.engine).rmdir()
    assert "cannot be read, so this start compiles again" in caplog.text
    world.check_nothing_is_left()


def test_the_cache_is_kept_after_the_first_frame(world: World, frames: Frames) -> None:
    cache_path(world.engine).unlink(missing_ok=True)
    executor = EngineExecutor(world.engine)
    ticket = executor.submit(frames[:1])
    assert not cache_path(world.engine).exists()
    executor.result(ticket)
    assert cache_path(world.engine).read_bytes() == b"compiled"
    executor.close()
    cache_path(world.engine).unlink()


def test_what_nobody_closes_is_closed(world: World, frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    executor.submit(frames[:1])
    del executor
    gc.collect()
    world.check_nothing_is_left()
    left_open = EngineExecutor(world.engine)
    left_open.submit(frames[:1])
    _close_all()  # as at the end of the process
    world.check_nothing_is_left()
    with pytest.raises(ValueError, match="closed"):
        left_open.submit(frames[:1])


def test_a_cache_that_cannot_be_kept_is_no_error(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError("read-only file system")

    cache_path(world.engine).unlink(missing_ok=True)
    monkeypatch.setattr("engines.runner.tensorrt_network.atomic_file", refuse)
    EngineExecutor(world.engine).close()
    assert "so the next start compiles again" in caplog.text
    world.check_nothing_is_left()
