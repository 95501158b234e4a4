"""Tests of pictures that are uploaded once and of which submissions read regions, on stand-ins."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.executor import RawDetections
from engines.core.frame_region import FrameRegion
from engines.core.gpu_frame import GpuFrame
from engines.runner.engine_executor import EngineExecutor
from engines.runner.packing import Packer
from engines.tensorrt.backend import TENSORRT
from retina_edge.detector import Detector
from retina_edge.tiling import TiledDetector, tile_layout
from tests.engines.core.gpu_arrays import Interface
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World

pytestmark = needs_compiler
Picture = npt.NDArray[np.uint8]
Frames = list[Picture]
SIZE = (128, 160)
HEADER_BYTES = 256


@pytest.fixture(params=[False, True], ids=["discrete", "integrated"])
def world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """A simulated machine with an engine of TensorRT, whose GPU has its own memory, or that of the host."""
    return World(monkeypatch, Driver(seed=2, integrated=request.param), engine, tmp_path, backend=TENSORRT)


def pictures_of(frames: Frames) -> Frames:
    """Return large pictures that differ."""
    return [np.roll(np.tile(frame, (2, 2, 1)), 40 * n, axis=1) for n, frame in enumerate(frames[:4])]


def equal(found: RawDetections, expected: RawDetections) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def test_regions_of_a_picture_give_the_detections_of_the_crops(world: World, small_frames: Frames) -> None:
    """The caller may modify the picture after the upload. The last region reaches past the picture."""
    executor = EngineExecutor(world.engine, in_flight=2)
    (picture, *_) = pictures_of(small_frames)
    height, width = picture.shape[:2]
    corners = [(0, 0), (33, 71), (height - SIZE[0], 5), (height - 60, width - 70)]
    crops = [FrameRegion(picture, *corner, SIZE).crop() for corner in corners]
    assert crops[-1][60:].max() == 0 < crops[-1][:60, :70].max()
    expected = [executor.result(executor.submit([np.array(crop)])) for crop in crops]
    world.driver.log.clear()
    given = picture.copy()
    uploaded = executor.upload(given)
    given[:] = 0
    tickets = [executor.submit([FrameRegion(uploaded, *corner, SIZE)]) for corner in corners]
    del uploaded
    for ticket, wanted in zip(tickets, expected, strict=True):
        equal(executor.result(ticket), wanted)
    sizes = [int(name.split()[2]) for name in world.driver.log if name.startswith("to device")]
    if not world.driver.integrated:
        assert sum(sizes) == picture.nbytes + len(corners) * HEADER_BYTES
    executor.close()
    world.check_nothing_is_left()


def test_pictures_of_the_pool_are_read_from_where_they_lie(
    world: World, small_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A discrete GPU copies them, an integrated one reads them; no processor does. The memory is not used before."""
    executor = EngineExecutor(world.engine, in_flight=2)
    (picture, *_) = pictures_of(small_frames)
    region = (17, 23, SIZE)
    expected = executor.result(executor.submit([np.array(FrameRegion(picture, *region).crop())]))
    monkeypatch.setattr(Packer, "pack", lambda *_args, **_options: pytest.fail("packed"))
    pooled = executor.pool.take(*picture.shape[:2])
    pooled[:] = picture
    address = pooled.ctypes.data
    world.driver.uploaded.clear()
    uploaded = executor.upload(pooled)
    ticket = executor.submit([FrameRegion(uploaded, *region)])
    del uploaded, pooled
    other = executor.pool.take(*picture.shape[:2])
    assert other.ctypes.data != address
    other[:] = 0
    equal(executor.result(ticket), expected)
    assert (address in world.driver.uploaded) is not world.driver.integrated
    del ticket, other
    if world.driver.integrated:
        gc.collect()
        free = [executor.pool.take(*picture.shape[:2]) for _ in range(2)]
        assert address in {frame.ctypes.data for frame in free}
        del free
    executor.close()
    world.check_nothing_is_left()


def test_blocks_are_used_again_without_harm(world: World, small_frames: Frames) -> None:
    """More pictures than blocks, submitted without waiting, in a random schedule; and a block that nobody read."""
    executor = EngineExecutor(world.engine, in_flight=3)
    pictures = pictures_of(small_frames)
    region = (17, 23, SIZE)
    expected = [
        executor.result(executor.submit([np.array(FrameRegion(picture, *region).crop())])) for picture in pictures
    ]
    before = len(world.driver.pinned)
    tickets = []
    for n in (0, 1, 2, 3, 3, 2, 1, 0):
        executor.upload(pictures[(n + 1) % 4])
        source = executor.upload(pictures[n])
        tickets.append((n, [executor.submit([FrameRegion(source, *region)]) for _ in range(2)]))
        del source
    for n, pair in tickets:
        for ticket in pair:
            equal(executor.result(ticket), expected[n])
    assert len(world.driver.pinned) - before == 2
    held = [executor.upload(picture) for picture in pictures]  # all are wanted, so there must be four blocks
    for picture, n in zip(held, range(4), strict=True):
        equal(executor.result(executor.submit([FrameRegion(picture, *region)])), expected[n])
    assert len(world.driver.pinned) - before == 4
    larger = executor.upload(np.tile(pictures[0], (2, 2, 1)))
    equal(executor.result(executor.submit([FrameRegion(larger, *region)])), expected[0])
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.upload(pictures[0])
    world.check_nothing_is_left()


def test_a_block_that_cannot_be_allocated_leaves_the_executor_usable(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    (picture, *_) = pictures_of(small_frames)
    for extra in range(1 if world.driver.integrated else 2):
        world.driver.fail_at = world.driver._allocated + extra
        with pytest.raises(ValueError, match="expected memory for this model"):
            executor.upload(picture)
        world.driver.fail_at = None
    with pytest.raises(ValueError, match="expected a frame"):
        executor.upload(picture.astype(np.float32))
    ticket = executor.submit([FrameRegion(executor.upload(picture), 0, 0, SIZE)])
    assert executor.result(ticket).num_detections[0] >= 0
    executor.close()
    gc.collect()
    world.check_nothing_is_left()


def test_tiles_are_cut_from_one_uploaded_picture(
    world: World, small_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same boxes as from copies of the tiles, and about as many bytes to upload as the pictures have."""
    pictures = pictures_of(small_frames)[:2]
    with Detector.load(world.engine) as detector:
        tiled = TiledDetector(detector, tile=SIZE, overlap=32, batch=3)
        layout = tile_layout(pictures[0].shape[:2], SIZE, 32)
        assert len(layout) > 6
        with monkeypatch.context() as context:
            context.setattr(type(detector.executor), "upload", lambda _self, frame: frame)
            copied = tiled(pictures)
        detector(pictures[0])  # waits until nothing is in flight
        world.driver.log.clear()
        found = tiled(pictures)
        sizes = [int(name.split()[2]) for name in world.driver.log if name.startswith("to device")]
        single = tiled(pictures[1])
    assert [one.to_dict() for one in found] == [one.to_dict() for one in copied]
    assert single.to_dict() == found[1].to_dict()
    if not world.driver.integrated:
        batches = -(-2 * len(layout) // 3)
        assert sum(sizes) == sum(picture.nbytes for picture in pictures) + batches * 2 * HEADER_BYTES
        tile_bytes = 2 * len(layout) * 3 * SIZE[0] * SIZE[1]
        assert sum(sizes) < 0.8 * tile_bytes
    world.check_nothing_is_left()


def test_tiles_of_a_frame_on_the_gpu_are_not_uploaded(world: World, small_frames: Frames) -> None:
    (picture, *_) = pictures_of(small_frames)
    with Detector.load(world.engine) as detector:
        tiled = TiledDetector(detector, tile=SIZE, overlap=32)
        expected = tiled(picture)
        world.driver.memory[picture.ctypes.data] = picture.reshape(-1)
        world.driver.log.clear()
        found = tiled(GpuFrame(Interface(picture), color="bgr"))
        sizes = [int(name.split()[2]) for name in world.driver.log if name.startswith("to device")]
    assert found.to_dict() == expected.to_dict()
    assert set(sizes) <= {HEADER_BYTES}
    del world.driver.memory[picture.ctypes.data]
    world.check_nothing_is_left()
