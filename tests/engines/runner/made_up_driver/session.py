"""A program that uses the runner with the real pycuda and cuda-bindings; ``test_pycuda.py`` runs it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from engines.core.contract import DetectorContract
from engines.core.cuda_context import primary_context
from engines.core.errors import DeviceError
from engines.core.gpu_frame import GpuFrame
from engines.onnx.onnx_executor import OnnxExecutor
from engines.plugins.kernels import run_kernels
from engines.plugins.launch import Geometry
from engines.plugins.parameters import pack_parameters
from engines.runner.gpu_executor import GpuExecutor
from retina_edge.assets import MODEL

DRIVER = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
FRAME = np.zeros((1080, 1920, 3), np.uint8)
CONTRACT: DetectorContract = OnnxExecutor(MODEL).contract


class EmptyNetwork:
    """A network without detections, which is also its own context."""

    contract = CONTRACT
    half = raw = True
    batches = (1, 3)
    captures_graphs = False
    tensors = frozenset({"images", "cls_0"})

    def context(self, _batch: int, addresses: Mapping[str, int]) -> EmptyNetwork:
        assert set(addresses) == self.tensors
        return self

    def enqueue(self, stream: Any) -> None:
        assert stream.handle

    def save_cache(self) -> None: ...

    def close(self) -> None: ...


def exercised_executor(**options: Any) -> GpuExecutor:
    """Return an executor after calls to all of its methods, with a submission in flight."""
    executor = GpuExecutor(lambda _driver: EmptyNetwork(), **options)
    pinned = executor.pool.take(1080, 1920)
    assert DRIVER.made_up_registered() == 1
    for frames in ([FRAME], [FRAME], [FRAME] * 3, [FRAME[:40, :30]], [FRAME], [pinned], [FRAME, pinned, pinned[8:]]):
        detections = executor.result(executor.submit(frames))
        assert not detections.num_detections.any()
    assert min(executor.measure([FRAME]).values()) > 0
    executor.set_thresholds(score_threshold=0.4)
    in_a_thread(lambda: executor.measure([FRAME]))
    with primary_context() as driver:
        check_frames_on_the_gpu(driver, executor)
    executor.submit([FRAME])
    return executor


def check_frames_on_the_gpu(driver: Any, executor: GpuExecutor) -> None:
    """Submit frames in the driver's memory, on a stream of pycuda. Memory of the host is refused."""
    memory, stream = driver.mem_alloc(FRAME.nbytes), driver.Stream()
    interface = {"shape": FRAME.shape, "typestr": "|u1", "data": (int(memory), False), "version": 2}
    frame = GpuFrame(SimpleNamespace(__cuda_array_interface__=interface), color="bgr", stream=stream)
    for _ in range(3):
        assert not executor.result(executor.submit([frame, FRAME])).num_detections.any()
    refusal = ""
    interface = {**interface, "data": (FRAME.ctypes.data, False)}
    try:
        executor.submit([GpuFrame(SimpleNamespace(__cuda_array_interface__=interface), color="bgr")])
    except DeviceError as error:
        refusal = str(error)
    assert "CUDA_ERROR_INVALID_VALUE" in refusal
    memory.free()


def in_a_thread(work: Callable[[], object]) -> None:
    """Run a function in another thread and wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def check_nothing_is_left() -> None:
    """Check that no driver call was wrong and that all resources are freed."""
    gc.collect()
    assert DRIVER.made_up_left() == 0


def main() -> None:
    executor = exercised_executor()
    kept = executor.pool.take(1080, 1920)
    executor.close()
    check_nothing_is_left()
    kept[:] = 0  # still valid
    assert DRIVER.made_up_captures() > 0
    captures = DRIVER.made_up_captures()
    executor = exercised_executor(in_flight=3, cuda_graph=False)
    in_a_thread(executor.close)
    check_nothing_is_left()
    assert DRIVER.made_up_captures() == captures
    executor = exercised_executor()
    del executor
    check_nothing_is_left()
    geometry = Geometry.of(CONTRACT, half=True)
    heads = [np.zeros(tensor.shape, tensor.dtype) for tensor in geometry.inputs(1).values()][:-1]
    levels = len(geometry.feature_sizes)
    before = DRIVER.made_up_launches()
    run = run_kernels(heads[:levels], heads[levels:], pack_parameters(CONTRACT), geometry, runs=3)
    assert (run.milliseconds.shape, DRIVER.made_up_launches() - before) == ((3, 3), 9)
    check_nothing_is_left()
    global left_open  # closed at the end of the process
    left_open = exercised_executor()
    print("ends")


left_open: GpuExecutor | None = None

if __name__ == "__main__":
    main()
