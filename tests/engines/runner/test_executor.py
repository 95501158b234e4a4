"""The runner, with the driver and TensorRT's runtime replaced at their boundaries.

Kernels run in the emulator, streams late and in any order, and the network in ONNX Runtime; the engines and their
passports are TensorRT-RTX's own. What comes out is held against ``OnnxExecutor``. On a GPU none of it has run yet.
"""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.backend import find_backend
from engines.build_options import BuildOptions
from engines.builder import build_engine
from engines.engine_network import prepare
from engines.errors import DeviceError
from engines.machine import Machine
from engines.onnx_runtime import OnnxExecutor
from engines.plugins.reference import RawDetections
from engines.runner.executor import EngineExecutor
from engines.runner.network import cache_path
from export.deployable import export_onnx
from retina_edge.detector import Detector
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.sample import MODEL
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.tensorrt_runtime import Runtime

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]
HERE = Machine("NVIDIA GeForce RTX 3090", "8.6", "580.95", "")
# The letterbox of the kernel and of OpenCV differ by a grey level now and then, and so the scores and boxes a little.
SCORE, PIXELS = 0.02, 0.5
SURE = 0.5
ALLOCATIONS = 20  # until an engine is loaded


OPTIONS = BuildOptions(targets=("sm86",), max_batch=3)


@pytest.fixture(scope="session")
def engine(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample model for up to 3 images at a time; ``model.onnx`` stands beside it."""
    folder = tmp_path_factory.mktemp("runner")
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    onnx = folder / "model.onnx"
    export_onnx(checkpoint.build_model(), checkpoint.contract, onnx, batch=None, images=frames[:1])
    return build_engine(onnx, folder / "model.engine", OPTIONS).engine


class World:
    """A machine with a GPU that is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, driver: Driver, engine: Path) -> None:
        package = types.ModuleType("pycuda")
        package.driver = driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pycuda", package)
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        monkeypatch.setattr("engines.cuda._retained", {})
        self.driver = driver
        version = find_backend("tensorrt-rtx", Machine()).version
        self.trt = Runtime(driver, prepare(engine.with_suffix(".onnx").read_bytes(), OPTIONS).model, version)
        monkeypatch.setattr("engines.runner.executor.this_machine", lambda: HERE)
        monkeypatch.setattr("engines.runner.executor.find_backend", lambda _name, _machine: self.trt.backend())

    def check_nothing_is_left(self) -> None:
        assert (self.driver.memory, self.driver.pinned) == ({}, {})
        assert list(self.driver.alive) == []
        assert self.trt.alive == []
        assert self.driver.contexts == []


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, engine: Path) -> World:
    return World(monkeypatch, Driver(seed=1), engine)


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


@pytest.mark.parametrize("seed", range(3))
def test_detections_are_those_of_onnx_runtime(world: World, engine: Path, frames: Frames, seed: int) -> None:
    world.driver._random.seed(seed)
    reference = OnnxExecutor(engine.with_suffix(".onnx"))
    executor = EngineExecutor(engine)
    for batch in (frames[:1], frames[:3], frames[2:4]):
        found = executor.result(executor.submit(batch))
        assert len(found.num_detections) == len(batch)
        check(found, reference.result(reference.submit(batch)))
    assert world.trt.runs == [1, 3, 2]
    executor.close()
    world.check_nothing_is_left()


def test_several_on_their_way_and_results_in_any_order(world: World, engine: Path, frames: Frames) -> None:
    executor = EngineExecutor(engine, in_flight=2)
    alone = [executor.result(executor.submit([frame])) for frame in frames]
    tickets = [executor.submit([frame]) for frame in frames]  # twice as many as there are slots
    for index in (3, 0, 2, 1, 3):
        found = executor.result(tickets[index])
        for ours, theirs in zip(found, alone[index], strict=True):
            assert ours.tobytes() == theirs.tobytes()
    executor.close()
    world.check_nothing_is_left()


def test_the_next_frames_go_up_while_the_first_are_computed(world: World, engine: Path, frames: Frames) -> None:
    """Nothing on the copy stream waits for the compute stream."""
    executor = EngineExecutor(engine)
    executor.submit(frames[:1])
    executor.submit(frames[1:2])
    copies, compute = (stream for _, stream in sorted(world.driver.streams.items()))
    while copies.ready():
        copies.step()
    assert [name.partition(" ")[0] for name in world.driver.log] == ["to", "event", "to", "event"]
    assert compute.ready()
    executor.close()


def test_frames_may_grow_and_shrink_and_memory_stays(world: World, engine: Path, frames: Frames) -> None:
    executor = EngineExecutor(engine, in_flight=1)
    large = np.tile(frames[0], (2, 3, 1))
    executor.result(executor.submit([large]))
    before = set(world.driver.memory), set(world.driver.pinned)
    for frame in (frames[1], frames[2][:50], large, frames[3][:, :1]):
        executor.result(executor.submit([frame]))
    assert (set(world.driver.memory), set(world.driver.pinned)) == before
    executor.close()
    world.check_nothing_is_left()


def test_from_several_threads(world: World, engine: Path, frames: Frames) -> None:
    executor = EngineExecutor(engine)
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


def test_integrated_memory_is_not_copied(monkeypatch: pytest.MonkeyPatch, engine: Path, frames: Frames) -> None:
    world = World(monkeypatch, Driver(integrated=True), engine)
    executor, reference = EngineExecutor(engine), OnnxExecutor(engine.with_suffix(".onnx"))
    check(executor.result(executor.submit(frames[:2])), reference.result(reference.submit(frames[:2])))
    assert not any(name.startswith("to ") for name in world.driver.log)
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.usefixtures("world")
def test_thresholds_while_it_runs(engine: Path, frames: Frames) -> None:
    executor = EngineExecutor(engine)
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


def test_through_the_detector(world: World, engine: Path, frames: Frames) -> None:
    with Detector.load(engine) as detector, Detector.load(MODEL) as reference:
        found, expected = detector(frames), reference(frames)
        for ours, theirs in zip(found, expected, strict=True):
            assert abs(len(ours.above(SURE)) - len(theirs.above(SURE))) <= 1
    world.check_nothing_is_left()


def test_wrong_frames_say_what_came(world: World, engine: Path, frames: Frames) -> None:
    executor = EngineExecutor(engine)
    with pytest.raises(ValueError, match=r"expected a frame .* got float32 \[400, 400, 3\]"):
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


def test_a_ticket_of_another_executor(world: World, engine: Path, frames: Frames) -> None:
    first, second = EngineExecutor(engine), EngineExecutor(engine)
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
def test_no_memory_leaves_none_behind(world: World, engine: Path, allocation: int) -> None:
    world.driver.fail_at = allocation
    with pytest.raises(DeviceError, match="expected memory for this model, found too little"):
        EngineExecutor(engine)
    world.check_nothing_is_left()


def test_no_allocation_is_left_untried(world: World, engine: Path) -> None:
    EngineExecutor(engine).close()
    assert world.driver._allocated == ALLOCATIONS


def test_no_memory_for_a_larger_frame(world: World, engine: Path, frames: Frames) -> None:
    executor = EngineExecutor(engine, in_flight=1)
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
        ("address", "takes no address for images"),
    ],
)
def test_tensorrt_refuses_to_load(world: World, engine: Path, call: str, words: str) -> None:
    world.trt.refuses = call
    with pytest.raises(DeviceError) as caught:
        EngineExecutor(engine)
    assert words in str(caught.value)
    del caught
    world.check_nothing_is_left()


@pytest.mark.parametrize(("call", "words"), [("shape", "takes no input of"), ("enqueue", "does not run the engine")])
def test_tensorrt_refuses_to_run(world: World, engine: Path, frames: Frames, call: str, words: str) -> None:
    executor = EngineExecutor(engine, in_flight=1)
    world.trt.refuses = call
    for _ in range(3):
        with pytest.raises(DeviceError, match=words):
            executor.submit(frames[:1])
    world.trt.refuses = ""
    assert executor.result(executor.submit(frames[:1])).num_detections[0] > 3
    executor.close()
    world.check_nothing_is_left()


def test_another_gpu(world: World, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Machine("NVIDIA GeForce RTX 2080", "7.5", "580.95", "")
    monkeypatch.setattr("engines.runner.executor.this_machine", lambda: other)
    with pytest.raises(DeviceError, match=r"expected a GPU of sm86, .* found NVIDIA GeForce RTX 2080"):
        EngineExecutor(engine)
    world.check_nothing_is_left()


def test_what_was_compiled_is_kept_beside_the_engine(world: World, engine: Path) -> None:
    cache_path(engine).unlink(missing_ok=True)
    EngineExecutor(engine).close()
    assert world.trt.loaded is None
    assert cache_path(engine).read_bytes() == b"compiled"
    EngineExecutor(engine).close()
    assert world.trt.loaded == b"compiled"
    world.trt.accepts, world.trt.compiled = False, b"of another driver"
    EngineExecutor(engine).close()
    assert cache_path(engine).read_bytes() == b"of another driver"
    cache_path(engine).unlink()


def test_a_cache_that_cannot_be_kept_is_no_error(
    world: World, engine: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr("engines.runner.network.atomic_file", refuse)
    EngineExecutor(engine).close()
    assert "so the next start compiles again" in caplog.text
    world.check_nothing_is_left()
