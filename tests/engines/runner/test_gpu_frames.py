"""Tests of the runner with frames that are on the GPU already, on stand-ins: order of streams, graphs, refusals."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import DeviceError, MissingDependencyError
from engines.core.executor import RawDetections
from engines.core.frame_region import FrameRegion
from engines.core.gpu_frame import GpuFrame
from engines.onnx.onnx_executor import OnnxExecutor
from engines.runner.engine_executor import EngineExecutor
from engines.tensorrt.backend import TENSORRT
from retina_edge.detector import Detector
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver, Stream
from tests.engines.runner.world import World, check

pytestmark = needs_compiler
Frames = list[npt.NDArray[np.uint8]]


class Surface:
    """An array on the simulated GPU, as CuPy's. ``write`` enqueues a write on the stream of its producer."""

    def __init__(self, driver: Driver, shape: tuple[int, ...], **interface: Any) -> None:
        driver.contexts.append("test")
        self._driver, self._allocation = driver, driver.mem_alloc(int(np.prod(shape)))
        driver.contexts.pop()
        self.array = driver.memory[int(self._allocation)].reshape(shape)
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": "|u1",
            "data": (int(self._allocation), False),
            "version": 3,
            **interface,
        }

    def write(self, content: npt.NDArray[np.uint8], stream: Stream) -> None:
        for _ in range(30):  # a slow producer: whoever does not wait for it comes too early
            stream.put("decode", lambda: None)
        stream.put("write", lambda: np.copyto(self.array, content))

    def free(self) -> None:
        self._driver.contexts.append("test")
        self._allocation.free()
        self._driver.contexts.pop()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path) -> World:
    """A simulated machine with an engine of TensorRT, whose work the runner captures as CUDA graphs."""
    return World(monkeypatch, Driver(seed=3), engine, tmp_path, backend=TENSORRT)


def equal(found: RawDetections, expected: RawDetections) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def stream_of(world: World) -> Stream:
    world.driver.contexts.append("test")
    return world.driver.Stream()


def end(world: World, *surfaces: Surface) -> None:
    for surface in surfaces:
        surface.free()
    gc.collect()
    world.driver.contexts.clear()
    world.check_nothing_is_left()


@pytest.mark.parametrize("seed", range(3))
def test_a_surface_is_written_again_and_again_on_the_producers_stream(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames, seed: int
) -> None:
    """The producer never waits on the host: the streams alone keep the order, also with graphs and in any schedule."""
    world = World(monkeypatch, Driver(seed=seed), engine, tmp_path, backend=TENSORRT)
    executor = EngineExecutor(world.engine, in_flight=2)
    expected = [executor.result(executor.submit([frame])) for frame in small_frames]
    producer, surface = stream_of(world), Surface(world.driver, small_frames[0].shape)
    tickets = []
    for frame in (*small_frames, *small_frames):
        assert frame.shape == small_frames[0].shape
        surface.write(frame, producer)
        tickets.append(executor.submit([GpuFrame(surface, color="bgr", stream=producer)]))
    for ticket, wanted in zip(tickets, (*expected, *expected), strict=True):
        equal(executor.result(ticket), wanted)
    assert world.bindings.launches > len(small_frames)
    producer.synchronize()
    executor.close()
    del producer
    end(world, surface)


def test_the_stream_that_an_array_names_is_waited_for(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    expected = executor.result(executor.submit([small_frames[0]]))
    producer = stream_of(world)
    surface = Surface(world.driver, small_frames[0].shape, stream=producer.handle)
    surface.write(small_frames[0], producer)
    ticket = executor.submit([GpuFrame(surface, color="bgr")])
    surface.write(np.zeros_like(small_frames[0]), producer)
    equal(executor.result(ticket), expected)
    producer.synchronize()
    executor.close()
    del producer
    end(world, surface)


def test_a_producer_with_dlpack_is_asked_to_order_its_stream(world: World, small_frames: Frames) -> None:
    """torch's arrays do not name a stream, but their export by DLPack orders the stream that is passed to it."""
    executor = EngineExecutor(world.engine, in_flight=1)
    expected = executor.result(executor.submit([small_frames[0]]))
    producer, surface = stream_of(world), Surface(world.driver, small_frames[0].shape)
    handles = []

    def export(*, stream: int, producer: Stream = producer) -> None:
        handles.append(stream)
        event = world.driver.Event()
        event.record(producer)
        world.driver.streams[stream].wait_for_event(event)

    surface.__dlpack__ = export  # type: ignore[attr-defined]
    surface.write(small_frames[0], producer)
    equal(executor.result(executor.submit([GpuFrame(surface, color="bgr")])), expected)
    assert len(handles) == 1
    executor.close()
    del producer, export, surface.__dlpack__  # type: ignore[attr-defined]
    end(world, surface)


def test_nv12_through_the_detector(world: World, engine: Path, small_frames: Frames) -> None:
    """With OpenCV's conversion before ONNX Runtime, the detections are about the same."""
    bgr = small_frames[0][: small_frames[0].shape[0] // 2 * 2, : small_frames[0].shape[1] // 2 * 2]
    height, width = bgr.shape[:2]
    planes = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    chroma = planes[height:].reshape(2, -1, width // 2).transpose(1, 2, 0).reshape(-1, width)
    nv12 = np.concatenate([planes[:height], chroma])
    surface = Surface(world.driver, nv12.shape)
    surface.array[:] = nv12
    frame = GpuFrame.nv12(surface, matrix="bt601", color_range="limited")
    reference = OnnxExecutor(engine.with_suffix(".onnx"))
    converted = np.asarray(cv2.cvtColor(nv12, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    expected = reference.result(reference.submit([converted]))
    with Detector.load(world.engine) as detector:
        check(detector.executor.result(detector.executor.submit([frame])), expected)
        one, many = detector(frame), detector([frame, bgr])
        assert one.to_dict() == many[0].to_dict()
        assert one.boxes.max() <= max(width, height)
        with pytest.raises(ValueError, match="frame"):
            one.plot()
    end(world, surface)


def test_only_the_header_of_a_frame_on_the_gpu_is_uploaded(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    surface = Surface(world.driver, small_frames[0].shape)
    surface.array[:] = small_frames[0]
    frame = GpuFrame(surface, color="bgr")
    executor.result(executor.submit([frame]))
    world.driver.log.clear()
    executor.result(executor.submit([frame, FrameRegion(frame, 5, 5, (50, 50))]))
    uploads = [name for name in world.driver.log if name.startswith("to device")]
    assert uploads == ["to device 256"]
    assert min(executor.measure([frame]).values()) >= 0
    executor.close()
    end(world, surface)


def test_the_array_lives_until_its_detections_are_there(world: World, small_frames: Frames) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    surface = Surface(world.driver, small_frames[0].shape)
    surface.array[:] = small_frames[0]

    class Holder:
        __cuda_array_interface__ = surface.__cuda_array_interface__

    holder = Holder()
    alive = weakref.ref(holder)
    ticket = executor.submit([GpuFrame(holder, color="bgr")])
    del holder
    gc.collect()
    assert alive() is not None
    executor.result(ticket)
    gc.collect()
    assert alive() is None
    executor.close()
    end(world, surface)


def test_frames_that_the_gpu_cannot_read_are_refused(
    world: World, small_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = EngineExecutor(world.engine, in_flight=1)
    surface = Surface(world.driver, small_frames[0].shape)
    frame = GpuFrame(surface, color="bgr", stream=99)
    with pytest.raises(DeviceError, match="cuEventRecord: CUDA_ERROR_INVALID_HANDLE; the stream of a GpuFrame must"):
        executor.submit([frame])
    world.bindings.on_another_gpu.add(surface.array.ctypes.data)
    words = "expected a frame on GPU 0, where the engine runs, got one on GPU 1; load the engine with device='cuda:1'"
    with pytest.raises(DeviceError, match=words):
        executor.submit([small_frames[0], frame])
    lie = SimpleNamespace(
        __cuda_array_interface__={**surface.__cuda_array_interface__, "data": (small_frames[0].ctypes.data, False)}
    )
    with pytest.raises(
        DeviceError, match=r"expected memory of GPU 0, got address 0x.*, which the driver does not know"
    ):
        executor.submit([GpuFrame(lie, color="bgr")])
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "cuda.bindings", None)
        with pytest.raises(MissingDependencyError, match="frames on the GPU: expected the package cuda-bindings"):
            executor.submit([frame])
    assert executor.result(executor.submit([small_frames[0]])).num_detections[0] > 3
    executor.close()
    end(world, surface)


@pytest.mark.parametrize("integrated", [False, True])
def test_a_batch_mixes_frames_on_the_gpu_pinned_and_packed_ones(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: Frames, *, integrated: bool
) -> None:
    """Each frame in each of the three places, in the same slot, whose header is uploaded again for each submission."""
    world = World(monkeypatch, Driver(seed=4, integrated=integrated), engine, tmp_path, backend=TENSORRT)
    executor = EngineExecutor(world.engine, in_flight=1)
    expected = executor.result(executor.submit(small_frames[:3]))
    for shift in range(3):
        on_gpu, in_pool = shift, (shift + 1) % 3
        frames: list[Any] = list(small_frames[:3])
        surface = Surface(world.driver, frames[on_gpu].shape)
        surface.array[:] = frames[on_gpu]
        pinned = executor.pool.take(*frames[in_pool].shape[:2])
        pinned[:] = frames[in_pool]
        frames[on_gpu], frames[in_pool] = GpuFrame(surface, color="bgr"), pinned
        equal(executor.result(executor.submit(frames)), expected)
        equal(executor.result(executor.submit(small_frames[:3])), expected)
        del frames, pinned
        surface.free()
    executor.close()
    end(world)
