"""The stages of the work on a submission, enqueued on two CUDA streams.

    frames ─copy stream─▶ GPU ─┐ uploaded
                               └─compute stream─▶ letterbox ▶ network [▶ Filter ▶ Select ▶ NMS] ▶ download ─▶ done

The compute stream runs one submission after another, so the buffers between upload and download exist only once. The
copy stream uploads the next frames meanwhile. For each slot and batch size, the work on the compute stream is captured
as a CUDA graph after its first run.

If callers pass frames that are on the GPU already, the compute stream first waits for the streams that write them. The
letterbox then runs before the graph and not in it, so that those streams need to wait only for the letterbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.cuda_context import NON_BLOCKING
from engines.core.errors import DeviceError, MissingDependencyError
from engines.core.executor import D2H, GPU, H2D, NETWORK, POSTPROCESS, PREPROCESS
from engines.core.frame_pool import FramePool
from engines.core.gpu_frame import GpuFrame, Pixels
from engines.core.tensor_names import PARAMETERS
from engines.plugins.kernels import PostprocessKernels, launch_kernel, load_kernel
from engines.plugins.launch import Geometry, postprocess_launches
from engines.plugins.parameters import pack_parameters, set_thresholds
from engines.runner.caller_stream import let_writers_wait, wait_for_writers
from engines.runner.cuda_graph import CudaGraph, GraphUse
from engines.runner.frame_memory import Upload
from engines.runner.network import Context, Network
from engines.runner.packed_frames import FRAMES, letterbox_launch
from engines.runner.packing import Packer
from engines.runner.pictures import Pictures
from engines.runner.shared_memory import SharedMemory
from engines.runner.slot import Slot, Steps

log = logging.getLogger(__name__)

# Other threads can invalidate a capture, for instance with torch.cuda.synchronize(), so the next submission retries it.
MAX_CAPTURE_ATTEMPTS = 3


class Stages:
    """Streams, buffers, kernels and network contexts that all submissions share.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        network: network to run between letterbox and post-processing.
        pool: pool of the pictures that need no copy.
        packer: copies the others to pinned memory.
        integrated: True if the GPU shares the memory of the host.
        cuda_graph: True to capture the work on the compute stream as CUDA graphs.

    Attributes:
        outputs: output tensors of the post-processing, for the largest batch.
    """

    def __init__(
        self, driver: Any, network: Network, pool: FramePool, packer: Packer, *, integrated: bool, cuda_graph: bool
    ) -> None:
        self._driver, self._network = driver, network
        self._captures, self._failed_captures = cuda_graph and not network.captures_graphs, 0
        self._graphs_by_library = cuda_graph and network.captures_graphs
        self._with_graph, self._without_graph, self._failure = 0, 0, ""
        self._contexts: dict[tuple[int, ...], Context] = {}  # by batch size and addresses
        self._addresses: dict[str, int] = {}
        self._kernels: PostprocessKernels | None = None
        self._copies: Any = None
        self._compute: Any = None
        self._letterbox: Any = None
        contract, batch = network.contract, network.batches[-1]
        geometry = Geometry.of(contract, half=network.half)
        self.outputs = postprocess_launches(geometry, batch)[-1].outputs
        with ExitStack() as stack:
            stack.callback(self._forget)  # runs last; no object of the driver may outlive its context
            self._copies, self._compute = driver.Stream(NON_BLOCKING), driver.Stream(NON_BLOCKING)
            self._letterbox = load_kernel(driver, letterbox_launch(contract.input_size, batch))
            tensors = list(letterbox_launch(contract.input_size, batch).outputs)
            if network.raw:
                self._kernels = stack.enter_context(PostprocessKernels(driver, geometry, batch))
                tensors += [tensor for name, tensor in geometry.inputs(batch).items() if name != PARAMETERS]
                self._parameters = self._upload(pack_parameters(contract), stack, integrated=integrated)
            for tensor in tensors:
                allocation = driver.mem_alloc(tensor.nbytes)
                stack.callback(allocation.free)
                self._addresses[tensor.name] = int(allocation)
            self._pictures = Pictures(driver, pool, packer, integrated=integrated)
            stack.callback(self._pictures.free)
            stack.callback(self._close_contexts)
            self._stack = stack.pop_all()

    def enqueue(self, slot: Slot, batch: int, uploads: Iterable[Upload], on_gpu: Sequence[GpuFrame] = ()) -> None:
        """Enqueue all stages of a submission on the streams.

        Args:
            slot: slot with room for the frames.
            batch: number of images.
            uploads: uploads of the frames. Each runs while the next one is being prepared.
            on_gpu: frames of the submission that callers passed on the GPU.
        """
        for upload in uploads:
            slot.frames.upload(self._copies, upload)
        slot.uploaded.record(self._copies)
        self._compute.wait_for_event(slot.uploaded)
        steps = self._steps(slot, batch)
        if on_gpu:
            steps = self._letterbox_now(steps, on_gpu)
        if (graph := slot.graphs.get((batch, bool(on_gpu)))) is not None:
            graph.launch()
            self._with_graph += 1
        else:
            self._without_graph += 1
            self._run_and_capture(slot, (batch, bool(on_gpu)), steps)
        slot.done.record(self._compute)

    @property
    def graph_use(self) -> GraphUse:
        """How many submissions were launched as a CUDA graph so far."""
        return GraphUse(self._with_graph, self._without_graph, self._graphs_by_library, self._failure)

    def upload(self, picture: npt.NDArray[np.uint8], wait: Callable[[], bool]) -> Pixels:
        """Upload a picture on the copy stream, for regions in later submissions; see ``Pictures.upload``."""
        return self._pictures.upload(picture, self._copies, wait)

    def measure(
        self, slot: Slot, batch: int, uploads: Sequence[Upload], on_gpu: Sequence[GpuFrame] = ()
    ) -> dict[str, float]:
        """Return the milliseconds of each stage on the GPU, and of all these stages together as ``GPU``.

        The slot must be filled, and the GPU must be idle.
        """

        def upload_all() -> None:
            for upload in uploads:
                slot.frames.upload(self._compute, upload)

        # An unmeasured submission keeps the GPU busy while the host enqueues the measured work. Otherwise, the time for
        # enqueueing would count as time of the GPU.
        self.enqueue(slot, batch, uploads, on_gpu)
        self._copies.wait_for_event(slot.done)
        begun, ended = self._driver.Event(), self._driver.Event()
        begun.record(self._copies)
        self.enqueue(slot, batch, uploads, on_gpu)
        ended.record(self._compute)
        steps: Steps = {H2D: upload_all} | self._steps(slot, batch)
        marks = [self._driver.Event().record(self._compute)]
        for step in steps.values():
            step()
            marks.append(self._driver.Event().record(self._compute))
        self._compute.synchronize()
        stages = {name: marks[i].time_till(marks[i + 1]) for i, name in enumerate(steps)}
        return {**stages, GPU: begun.time_till(ended)}

    def raw_heads(self, batch: int) -> list[npt.NDArray[Any]]:
        """Download the raw heads of the last submission; the GPU must be idle. Empty if the network has none."""
        if not self._network.raw:
            return []
        geometry = Geometry.of(self._network.contract, half=self._network.half)
        heads = []
        for name, tensor in geometry.inputs(batch).items():
            if name != PARAMETERS:
                heads.append(np.empty(tensor.shape, tensor.dtype))
                self._driver.memcpy_dtoh(heads[-1], self._addresses[name])
        return heads

    def prepare(self, slot: Slot, batch: int) -> None:
        """Create the network context for a slot and a batch size before its first run."""
        self._context(slot, batch)

    def set_thresholds(self, *, score_threshold: float | None, iou_threshold: float | None) -> None:
        """Change the thresholds from the next submission on; None leaves a threshold as it is.

        Raises:
            ValueError: if a threshold is out of range, or the thresholds are built into the network.
        """
        if self._kernels is None:
            raise ValueError(
                "thresholds: expected an engine built with --postprocess kernels, got one with built-in thresholds"
            )
        self._compute.synchronize()  # submissions in flight keep the old thresholds
        host: npt.NDArray[np.float32] = self._parameters.host.view(np.float32)
        set_thresholds(host, score_threshold=score_threshold, iou_threshold=iou_threshold)
        self._parameters.to_device(self._compute)

    def synchronize(self) -> None:
        """Wait until both streams are idle."""
        self._copies.synchronize()
        self._compute.synchronize()

    def close(self) -> None:
        """Free all resources; nothing may be running."""
        self._stack.close()

    def _upload(self, values: npt.NDArray[np.float32], stack: ExitStack, *, integrated: bool) -> SharedMemory:
        memory = SharedMemory(self._driver, values.nbytes, integrated=integrated)
        stack.callback(memory.free)
        memory.host.view(np.float32)[:] = values
        memory.to_device(self._compute)
        self._compute.synchronize()
        self._addresses[PARAMETERS] = memory.device
        return memory

    def _letterbox_now(self, steps: Steps, on_gpu: Sequence[GpuFrame]) -> Steps:
        """Enqueue the letterbox, in order with the streams that write the frames; return the other steps."""
        handle = int(self._compute.handle)
        for frame in on_gpu:
            wait_for_writers(frame, handle)
        steps[PREPROCESS]()
        for frame in on_gpu:
            let_writers_wait(frame, handle)
        return {name: step for name, step in steps.items() if name != PREPROCESS}

    def _run_and_capture(self, slot: Slot, key: tuple[int, bool], steps: Steps) -> None:
        """Enqueue the steps one by one, then try to capture them as a CUDA graph for the next submission."""

        def work() -> None:
            for step in steps.values():
                step()

        work()  # before the capture, because TensorRT sets up a new context in its first run, which cannot be captured
        if not self._captures:
            return
        try:
            slot.graphs[key] = CudaGraph(self._driver, self._compute, work)
        except (DeviceError, MissingDependencyError) as error:
            self._failed_captures += 1
            self._failure = str(error)
            self._captures = self._failed_captures < MAX_CAPTURE_ATTEMPTS and isinstance(error, DeviceError)
            if not self._captures:
                # Log only the text: a handler that keeps the error would keep its traceback, with streams and memory.
                log.warning("no CUDA graph, each kernel is launched separately: %s", str(error))

    def _steps(self, slot: Slot, batch: int) -> Steps:
        """Return the functions that enqueue the stages from letterbox to download on the compute stream."""
        if batch in slot.steps:
            return slot.steps[batch]
        addresses = {**self._addresses, **slot.addresses, FRAMES: slot.frames.device}
        letterbox, kernels = letterbox_launch(self._network.contract.input_size, batch), self._kernels
        context = self._context(slot, batch)
        steps: Steps = {
            PREPROCESS: lambda: launch_kernel(letterbox, self._letterbox, addresses, self._compute),
            NETWORK: lambda: context.enqueue(self._compute),
        }
        if kernels is not None:
            steps[POSTPROCESS] = lambda: kernels.launch(addresses, batch, self._compute)
        steps[D2H] = lambda: slot.download(self._compute)
        slot.steps[batch] = steps
        return steps

    def _context(self, slot: Slot, batch: int) -> Context:
        """Return the network context for a slot. Slots share it if the outputs are raw heads, which exist only once."""
        known = {**self._addresses, **slot.addresses}
        addresses = {name: known[name] for name in sorted(self._network.tensors)}
        key = (batch, *addresses.values())
        if key not in self._contexts:
            self._contexts[key] = self._network.context(batch, addresses)
        return self._contexts[key]

    def _close_contexts(self) -> None:
        while self._contexts:
            self._contexts.popitem()[1].close()

    def _forget(self) -> None:
        """Drop the streams and the kernel, which pycuda frees with the last reference."""
        self._copies = self._compute = self._letterbox = None
