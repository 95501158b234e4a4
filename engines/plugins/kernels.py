"""Launch the kernels with pycuda: after an engine that ends at the raw heads, in tests, and for measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.cuda_context import primary_context
from engines.core.executor import RawDetections
from engines.plugins.launch import Geometry, Launch, postprocess_launches
from engines.plugins.ptx_files import read_ptx

# Bytes that the GPU sets to zero before a measurement. Meanwhile the host enqueues all launches, so that no gaps
# between launches are measured. Writing so many bytes also evicts the heads from the caches.
BLOCKER_BYTES = 1 << 28


class PostprocessKernels:
    """Filter, Select and NMS for one geometry, with their scratch memory on the GPU.

    ``launch`` does not allocate, copy or wait, so it can be captured in a CUDA graph. All launches share the scratch
    memory, so only one stream may use it at a time.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        geometry: sizes of the heads.
        batch: largest number of images in a batch.
    """

    def __init__(self, driver: Any, geometry: Geometry, batch: int) -> None:
        self._geometry = geometry
        self._scratch: dict[str, int] = {}
        launches = postprocess_launches(geometry, batch)
        with ExitStack() as stack:
            self._functions = [load_kernel(driver, launch) for launch in launches]
            stack.callback(self._functions.clear)
            for tensor in (output for launch in launches[:-1] for output in launch.outputs):
                allocation = driver.mem_alloc(tensor.nbytes)
                stack.callback(allocation.free)
                self._scratch[tensor.name] = int(allocation)
            self._stack = stack.pop_all()

    def launch(self, tensors: Mapping[str, int], batch: int, stream: Any, events: Sequence[Any] = ()) -> None:
        """Enqueue the three launches on a stream.

        Args:
            tensors: device addresses by name. The inputs are the raw heads (``cls_0`` and so on, contiguous, in the
                dtype of the geometry) and ``parameters``, float32. The outputs are num_detections int32 [N], boxes
                float32 [N, K, 4], scores float32 [N, K] and labels int32 [N, K].
            batch: number of images N, at most the largest batch.
            stream: pycuda stream.
            events: four pycuda events to record before, between and after the launches; empty for none.
        """
        addresses = {**tensors, **self._scratch}
        if events:
            events[0].record(stream)
        for index, (launch, function) in enumerate(
            zip(postprocess_launches(self._geometry, batch), self._functions, strict=True)
        ):
            launch_kernel(launch, function, addresses, stream)
            if events:
                events[index + 1].record(stream)

    def __enter__(self) -> PostprocessKernels:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free memory and modules while the context is current. A second call does nothing."""
        self._stack.close()


@dataclass(frozen=True)
class KernelRun:
    """Detections and durations of the kernels.

    Attributes:
        detections: detections of the last run.
        milliseconds: durations of Filter, Select and NMS in each run, float64 [runs, 3], measured by the GPU with cold
            caches.
    """

    detections: RawDetections
    milliseconds: npt.NDArray[np.float64]


def run_kernels(
    cls_logits: Sequence[npt.NDArray[Any]],
    box_deltas: Sequence[npt.NDArray[Any]],
    parameters: npt.NDArray[np.float32],
    geometry: Geometry,
    *,
    runs: int = 1,
    device: int = 0,
) -> KernelRun:
    """Run the kernels on raw heads in host memory, to test or measure them.

    Args:
        cls_logits: class logits of each level, float16 or float32 as in the geometry, [N, A * C, h, w].
        box_deltas: box deltas of each level, in the same dtype, [N, A * 4, h, w].
        parameters: parameter tensor, float32 [8 + 4 L A + 2 L]; see ``engines.plugins.parameters``.
        geometry: sizes of the heads.
        runs: number of runs; the first run loads the kernels.
        device: number of the GPU.

    Raises:
        ValueError: if the arrays do not fit the geometry, or ``runs`` is less than 1.
        MissingDependencyError: if pycuda is not installed.
        DeviceError: if there is no driver or no GPU, or too little GPU memory.
    """
    if runs < 1:
        raise ValueError(f"runs: expected at least 1, got {runs}")
    arrays = _arrays(cls_logits, box_deltas, parameters, geometry)
    with primary_context(device) as driver:
        # This is a separate function because streams, events and modules must be freed before the context.
        return _run(driver, arrays, geometry, len(cls_logits[0]), runs)


def _run(driver: Any, arrays: Mapping[str, npt.NDArray[Any]], geometry: Geometry, batch: int, runs: int) -> KernelRun:
    with ExitStack() as stack:
        kernels = stack.enter_context(PostprocessKernels(driver, geometry, batch))
        tensors = {}
        for name, array in arrays.items():
            allocation = driver.mem_alloc(array.nbytes)
            stack.callback(allocation.free)
            driver.memcpy_htod(allocation, array)
            tensors[name] = int(allocation)
        outputs = postprocess_launches(geometry, batch)[-1].outputs
        for output in outputs:
            allocation = driver.mem_alloc(output.nbytes)
            stack.callback(allocation.free)
            tensors[output.name] = int(allocation)
        blocker = driver.mem_alloc(BLOCKER_BYTES)
        stack.callback(blocker.free)
        stream = driver.Stream()
        milliseconds = []
        for _ in range(runs):
            events = [driver.Event() for _ in range(4)]
            driver.memset_d8_async(int(blocker), 0, BLOCKER_BYTES, stream)
            kernels.launch(tensors, batch, stream, events)
            stream.synchronize()
            milliseconds.append([events[i].time_till(events[i + 1]) for i in range(3)])
        results = []
        for output in outputs:
            array = np.empty(output.shape, output.dtype)
            driver.memcpy_dtoh(array, tensors[output.name])
            results.append(array)
    return KernelRun(RawDetections(*results), np.array(milliseconds))


def launch_kernel(launch: Launch, function: Any, addresses: Mapping[str, int], stream: Any) -> None:
    """Enqueue one launch on a stream.

    Args:
        launch: launch to enqueue.
        function: its kernel, from ``load_kernel``.
        addresses: device address of each of its tensors, by name.
        stream: pycuda stream.
    """
    inputs = [addresses[name] for name in launch.inputs]
    outputs = [addresses[output.name] for output in launch.outputs]
    function.prepared_async_call(launch.grid, (launch.block, 1, 1), stream, *inputs, *launch.integers, *outputs)


def load_kernel(driver: Any, launch: Launch) -> Any:
    """Load the kernel of a launch. The driver compiles its PTX for the GPU and caches the result."""
    function = driver.module_from_buffer(read_ptx(launch.entry)).get_function(launch.entry)
    function.prepare("P" * len(launch.inputs) + "i" * len(launch.integers) + "P" * len(launch.outputs))
    return function


def _arrays(
    cls_logits: Sequence[npt.NDArray[Any]],
    box_deltas: Sequence[npt.NDArray[Any]],
    parameters: npt.NDArray[np.float32],
    geometry: Geometry,
) -> dict[str, npt.NDArray[Any]]:
    """Return all inputs as contiguous arrays, by name.

    Raises:
        ValueError: if the number, shape or dtype of the arrays does not fit the geometry.
    """
    expected = geometry.inputs(len(cls_logits[0]) if len(cls_logits) else 0)
    inputs = [*cls_logits, *box_deltas, parameters]
    if len(inputs) != len(expected):
        raise ValueError(f"heads: expected {len(expected) - 1} tensors, got {len(inputs) - 1}")
    arrays = dict(zip(expected, map(np.ascontiguousarray, inputs), strict=True))
    for name, array in arrays.items():
        shape, dtype = expected[name].shape, expected[name].dtype
        if (array.shape, array.dtype.name) != (shape, dtype) or not array.size:
            raise ValueError(f"{name}: expected {dtype} {list(shape)}, got {array.dtype.name} {list(array.shape)}")
    return arrays
