"""The runner on pycuda and cuda-bindings themselves, in a process of its own; ``test_pycuda.py`` starts it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engines.core.contract import DetectorContract
from engines.onnx.onnx_executor import OnnxExecutor
from engines.plugins.kernels import run_kernels
from engines.plugins.launch import Geometry
from engines.plugins.parameters import pack_parameters
from engines.runner.gpu_executor import GpuExecutor
from retina_edge.assets import MODEL

DRIVER = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
FRAME = np.zeros((1080, 1920, 3), np.uint8)
CONTRACT: DetectorContract = OnnxExecutor(MODEL).contract


class Nothing:
    """A network that finds nothing, and its context."""

    contract = CONTRACT
    half = raw = True
    batches = (1, 3)
    records_itself = False
    tensors = frozenset({"images", "cls_0"})

    def context(self, _batch: int, addresses: Mapping[str, int]) -> Nothing:
        assert set(addresses) == self.tensors
        return self

    def enqueue(self, stream: Any) -> None:
        assert stream.handle

    def save_cache(self) -> None: ...

    def close(self) -> None: ...


def used(**options: Any) -> GpuExecutor:
    """An executor that has been through everything, and has a submission on its way."""
    executor = GpuExecutor(lambda _driver: Nothing(), **options)
    for frames in ([FRAME], [FRAME], [FRAME] * 3, [FRAME[:40, :30]], [FRAME]):
        found = executor.result(executor.submit(frames))
        assert not found.num_detections.any()
    assert min(executor.measure([FRAME]).values()) > 0
    executor.set_thresholds(score_threshold=0.4)
    in_a_thread(lambda: executor.measure([FRAME]))
    executor.submit([FRAME])
    return executor


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def check_nothing_is_left() -> None:
    gc.collect()
    assert DRIVER.made_up_left() == 0


def main() -> None:
    used().close()
    check_nothing_is_left()
    assert DRIVER.made_up_recordings() > 0
    recorded = DRIVER.made_up_recordings()
    executor = used(in_flight=3, cuda_graph=False)
    in_a_thread(executor.close)
    check_nothing_is_left()
    assert DRIVER.made_up_recordings() == recorded
    executor = used()
    del executor
    check_nothing_is_left()
    geometry = Geometry.of(CONTRACT, half=True)
    heads = [np.zeros(tensor.shape, tensor.dtype) for tensor in geometry.inputs(1).values()][:-1]
    levels = len(geometry.feature_sizes)
    before = DRIVER.made_up_launches()
    run = run_kernels(heads[:levels], heads[levels:], pack_parameters(CONTRACT), geometry, runs=3)
    assert (run.milliseconds.shape, DRIVER.made_up_launches() - before) == ((3, 3), 9)
    check_nothing_is_left()
    global left_open  # the end of the process closes it
    left_open = used()
    print("ends")


left_open: GpuExecutor | None = None

if __name__ == "__main__":
    main()
