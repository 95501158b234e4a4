"""Filter, Select and NMS launched through pycuda: behind an engine that ends at the raw heads, and to measure them."""

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

# Bytes that are set to zero before a measurement: it takes the GPU longer than the host takes to put the launches on
# the stream, or their gaps would be measured; and it leaves nothing of the heads in the caches.
BLOCKER = 1 << 28


class PostprocessKernels:
    """The three kernels of one geometry, with their scratch on the GPU.

    ``launch`` allocates, copies and waits for nothing, so it can be captured in a CUDA graph. Not for two streams at
    once: they would share the scratch.

    Args:
        driver: from ``engines.core.cuda_context.primary_context``; its context must be current here and in every call.
        geometry: of the heads.
        batch: images at a time, at most.
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
        """Puts the three launches on a stream.

        Args:
            tensors: device addresses of the heads (``cls_0`` and so on, contiguous, of the geometry's type), of the
                ``parameters``, float32, and of what is written: num_detections int32 [N], boxes float32 [N, K, 4],
                scores float32 [N, K] and labels int32 [N, K].
            batch: N, at most what the scratch is for.
            stream: a pycuda stream.
            events: four to record before, between and after the launches, or none.
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
        """Gives memory and modules back, while the context is current; twice does no harm."""
        self._stack.close()


@dataclass(frozen=True)
class KernelRun:
    """What the kernels found, and how long they took.

    Attributes:
        detections: of the last run.
        milliseconds: float64 [runs, 3], of Filter, Select and NMS by the GPU's own clock, with cold caches.
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
    """Runs the kernels on given raw heads; to test and to measure them.

    Args:
        cls_logits: of each level [N, A C, h, w], float16 or float32 as the geometry says.
        box_deltas: of each level [N, A 4, h, w], likewise.
        parameters: float32, see ``engines.plugins.parameters``.
        geometry: of these heads.
        runs: how often; the first one loads the kernels.
        device: which GPU.

    Raises:
        ValueError: the arrays are not of the geometry, or no runs.
        MissingDependencyError, DeviceError: no pycuda, no driver, no GPU.
    """
    if runs < 1:
        raise ValueError(f"runs: expected at least 1, got {runs}")
    arrays = _arrays(cls_logits, box_deltas, parameters, geometry)
    with primary_context(device) as driver:
        # A function of its own: streams, events and modules must be gone before the context is.
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
        written = postprocess_launches(geometry, batch)[-1].outputs
        for output in written:
            allocation = driver.mem_alloc(output.nbytes)
            stack.callback(allocation.free)
            tensors[output.name] = int(allocation)
        blocker = driver.mem_alloc(BLOCKER)
        stack.callback(blocker.free)
        stream = driver.Stream()
        milliseconds = []
        for _ in range(runs):
            events = [driver.Event() for _ in range(4)]
            driver.memset_d8_async(int(blocker), 0, BLOCKER, stream)
            kernels.launch(tensors, batch, stream, events)
            stream.synchronize()
            milliseconds.append([events[i].time_till(events[i + 1]) for i in range(3)])
        found = []
        for output in written:
            array = np.empty(output.shape, output.dtype)
            driver.memcpy_dtoh(array, tensors[output.name])
            found.append(array)
    return KernelRun(RawDetections(*found), np.array(milliseconds))


def launch_kernel(launch: Launch, function: Any, addresses: Mapping[str, int], stream: Any) -> None:
    """Puts one launch on a stream, with the device addresses of its tensors by name."""
    inputs = [addresses[name] for name in launch.inputs]
    outputs = [addresses[output.name] for output in launch.outputs]
    function.prepared_async_call(launch.grid, (launch.block, 1, 1), stream, *inputs, *launch.integers, *outputs)


def load_kernel(driver: Any, launch: Launch) -> Any:
    """A kernel ready to be called; the driver finishes its PTX for the GPU at hand, and keeps the result."""
    function = driver.module_from_buffer(read_ptx(launch.entry)).get_function(launch.entry)
    function.prepare("P" * len(launch.inputs) + "i" * len(launch.integers) + "P" * len(launch.outputs))
    return function


def _arrays(
    cls_logits: Sequence[npt.NDArray[Any]],
    box_deltas: Sequence[npt.NDArray[Any]],
    parameters: npt.NDArray[np.float32],
    geometry: Geometry,
) -> dict[str, npt.NDArray[Any]]:
    """All inputs by name, contiguous.

    Raises:
        ValueError: one is not as the geometry says.
    """
    expected = geometry.inputs(len(cls_logits[0]) if len(cls_logits) else 0)
    given = [*cls_logits, *box_deltas, parameters]
    if len(given) != len(expected):
        raise ValueError(f"heads: expected {len(expected) - 1} tensors, got {len(given) - 1}")
    arrays = dict(zip(expected, map(np.ascontiguousarray, given), strict=True))
    for name, array in arrays.items():
        shape, dtype = expected[name].shape, expected[name].dtype
        if (array.shape, array.dtype.name) != (shape, dtype) or not array.size:
            raise ValueError(f"{name}: expected {dtype} {list(shape)}, got {array.dtype.name} {list(array.shape)}")
    return arrays
