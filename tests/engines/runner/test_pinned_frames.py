"""Tests of the frames of the runner's pool, on stand-ins: they are uploaded, or on a Jetson read, where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.letterbox import BgrImage
from engines.runner.engine_executor import EngineExecutor
from retina_edge.detector import Detector
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]


def pinned(executor: EngineExecutor, image: BgrImage) -> BgrImage:
    """Return a copy of an image in a frame of the executor's pool."""
    frame = executor.pool.take(image.shape[0], image.shape[1])
    frame[:] = image
    return frame


@pytest.fixture
def refuse_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.runner.frame_memory.Packer.pack", lambda *_: pytest.fail("a pinned frame is packed"))


@pytest.mark.parametrize("integrated", [False, True])
def test_pinned_frames_give_the_detections_of_packed_ones(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames, *, integrated: bool
) -> None:
    """All mixtures of frames that are pinned and frames that are not, in the same slot."""
    world = World(monkeypatch, Driver(seed=2, integrated=integrated), engine, tmp_path)
    executor = EngineExecutor(world.engine, in_flight=1)
    expected = executor.result(executor.submit(small_frames[:3]))
    for which in range(8):
        frames = [pinned(executor, frame) if which >> n & 1 else frame for n, frame in enumerate(small_frames[:3])]
        found = executor.result(executor.submit(frames))
        for name, array in found._asdict().items():
            np.testing.assert_array_equal(array, getattr(expected, name))
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.usefixtures("refuse_packing")
def test_a_pinned_frame_is_uploaded_from_where_it_lies(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    frame = pinned(executor, small_frames[0])
    executor.result(executor.submit([frame]))
    header, *frames = world.driver.uploaded[-2:]
    assert frames == [frame.ctypes.data] != [header]
    rows = frame[16:64]  # a part without gaps
    executor.result(executor.submit([rows]))
    assert world.driver.uploaded[-1] == rows.ctypes.data
    del frame, rows
    executor.close()
    world.check_nothing_is_left()


def test_a_part_with_gaps_is_packed(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine)
    expected = executor.result(executor.submit([small_frames[0][:, 8:96]]))
    found = executor.result(executor.submit([pinned(executor, small_frames[0])[:, 8:96]]))
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    executor.close()


@pytest.mark.usefixtures("refuse_packing")
def test_an_integrated_gpu_reads_a_pinned_frame_in_place(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames
) -> None:
    world = World(monkeypatch, Driver(integrated=True), engine, tmp_path)
    executor = EngineExecutor(world.engine)
    detections = executor.result(executor.submit([pinned(executor, small_frames[0])]))
    assert detections.num_detections[0] > 3
    assert not world.driver.uploaded
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize("integrated", [False, True])
def test_a_frame_in_flight_is_not_given_to_the_decoder(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames, *, integrated: bool
) -> None:
    """The GPU of the stand-in works only when the code waits for it, so that the frame is still needed."""
    world = World(monkeypatch, Driver(integrated=integrated), engine, tmp_path)
    executor = EngineExecutor(world.engine)
    expected = executor.result(executor.submit(small_frames[:1]))
    frame = pinned(executor, small_frames[0])
    address = frame.ctypes.data
    ticket = executor.submit([frame])
    del frame
    decoded = executor.pool.take(*small_frames[0].shape[:2])
    assert decoded.ctypes.data != address
    decoded[:] = 255
    np.testing.assert_array_equal(executor.result(ticket).boxes, expected.boxes)
    assert executor.pool.take(*small_frames[0].shape[:2]).ctypes.data == address
    executor.close()


def test_a_frame_remains_valid_after_the_detector_is_closed(world: World) -> None:
    with Detector.load(world.engine) as detector:
        kept, other = detector.new_frame(40, 60), detector.new_frame(4000, 3000)
        kept[:] = 7
        view = kept[10:20]
        ticket = detector.submit(other)
    world.check_nothing_is_left()
    del other, ticket, detector
    np.full((4000, 3000, 3), 1, np.uint8)  # overwrites memory that was freed by mistake
    kept[0, 0] = 8
    del kept
    assert (view == 7).all()
    world.check_nothing_is_left()


def test_an_open_detector_takes_the_frame_of_a_closed_one(world: World, small_frames: Frames) -> None:
    first, second = EngineExecutor(world.engine), EngineExecutor(world.engine)
    frame = pinned(first, small_frames[0])
    expected = first.result(first.submit([frame]))
    np.testing.assert_array_equal(second.result(second.submit([frame])).boxes, expected.boxes)
    first.close()
    np.testing.assert_array_equal(second.result(second.submit([frame])).boxes, expected.boxes)
    second.close()
    world.check_nothing_is_left()


def test_frames_are_released_after_a_failure(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    frame = pinned(executor, small_frames[0])
    address = frame.ctypes.data
    world.trt.refuses = "enqueue"
    with pytest.raises(Exception, match="cannot run the engine"):
        executor.submit([frame])
    world.trt.refuses = ""
    del frame
    again = pinned(executor, small_frames[0])
    assert again.ctypes.data == address
    assert executor.result(executor.submit([again])).num_detections[0] > 3
    executor.close()
    world.check_nothing_is_left()


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("fails", ["cuMemHostRegister", "cuMemHostGetDevicePointer"])
def test_frames_are_packed_if_memory_cannot_be_pinned(
    monkeypatch: pytest.MonkeyPatch,
    engine: Path,
    tmp_path: Path,
    small_frames: Frames,
    caplog: pytest.LogCaptureFixture,
    fails: str,
    *,
    integrated: bool,
) -> None:
    world = World(monkeypatch, Driver(integrated=integrated), engine, tmp_path)
    world.bindings.fails = fails
    executor = EngineExecutor(world.engine)
    frames = [pinned(executor, frame) for frame in small_frames[:2]]
    assert executor.result(executor.submit(frames)).num_detections[0] > 3
    refused = integrated or fails == "cuMemHostRegister"
    assert caplog.text.count(f"frames are not pinned, each is copied before its upload: {fails}") == refused
    executor.close()
    world.check_nothing_is_left()
