"""The stages of a frame's way over the GPU, put on two streams.

    frames ─copy stream─▶ GPU ─┐ uploaded
                               └─compute stream─▶ letterbox ▶ network [▶ Filter ▶ Select ▶ NMS] ▶ copy back ─▶ done

What lies between the copies exists once, for the compute stream does one thing at a time; meanwhile the next frames go
up. What a slot has on the compute stream is recorded as a CUDA graph the first time, one for each batch size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.cuda_context import NON_BLOCKING
from engines.core.errors import DeviceError, MissingDependencyError
from engines.core.executor import D2H, GPU, H2D, NETWORK, POSTPROCESS, PREPROCESS
from engines.core.tensor_names import PARAMETERS
from engines.plugins.kernels import PostprocessKernels, launch_kernel, load_kernel
from engines.plugins.launch import Geometry, postprocess_launches
from engines.plugins.parameters import pack_parameters, set_thresholds
from engines.runner.cuda_graph import CudaGraph
from engines.runner.network import Context, Network
from engines.runner.packed_frames import FRAMES, letterbox_launch
from engines.runner.shared_memory import SharedMemory
from engines.runner.slot import Slot, Steps

log = logging.getLogger(__name__)

# What other threads do can break off a recording, torch.cuda.synchronize() for one; so the next submission tries again.
GRAPH_TRIES = 3


class Stages:
    """Streams, buffers, kernels and the contexts of a network, for one submission after another.

    Args:
        driver: from ``engines.core.cuda_context.primary_context``; its context must be current here and in every call.
        network: what runs between letterbox and detections.
        integrated: the GPU has no memory of its own.
        cuda_graph: record what is launched.

    Attributes:
        found: the tensors found, for the largest batch.
    """

    def __init__(self, driver: Any, network: Network, *, integrated: bool, cuda_graph: bool) -> None:
        self._driver, self._network = driver, network
        self._records, self._refused = cuda_graph and not network.records_itself, 0
        self._contexts: dict[tuple[int, ...], Context] = {}  # by batch size and addresses
        self._addresses: dict[str, int] = {}
        self._kernels: PostprocessKernels | None = None
        self._copies: Any = None
        self._compute: Any = None
        self._letterbox: Any = None
        contract, batch = network.contract, network.batches[-1]
        geometry = Geometry.of(contract, half=network.half)
        self.found = postprocess_launches(geometry, batch)[-1].outputs
        with ExitStack() as stack:
            stack.callback(self._forget)  # last: nothing of the driver's may outlive its context
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
            stack.callback(self._close_contexts)
            self._stack = stack.pop_all()

    def enqueue(self, slot: Slot, batch: int, parts: Iterable[tuple[int, int]]) -> None:
        """Puts all of it on the streams.

        Args:
            slot: with room for the frames.
            batch: images.
            parts: where each part of the packed frames begins and ends, bytes; one goes up while the next is packed.
        """
        for begin, end in parts:
            slot.frames.to_device(self._copies, begin, end)
        slot.uploaded.record(self._copies)
        self._compute.wait_for_event(slot.uploaded)
        if (graph := slot.graphs.get(batch)) is not None:
            graph.launch()
        else:
            self._run_and_record(slot, batch)
        slot.done.record(self._compute)

    def measure(self, slot: Slot, batch: int, nbytes: int) -> dict[str, float]:
        """Milliseconds of each stage, and of ``GPU``, all of them at one go; the frames are packed, the GPU is idle."""
        whole = [(0, nbytes)]
        # Once uncounted: it keeps the GPU busy until all that is counted lies on the streams, or the time that the
        # host takes to put it there would be taken for the GPU's.
        self.enqueue(slot, batch, whole)
        self._copies.wait_for_event(slot.done)
        begun, ended = self._driver.Event(), self._driver.Event()
        begun.record(self._copies)
        self.enqueue(slot, batch, whole)
        ended.record(self._compute)
        upload: Steps = {H2D: lambda: slot.frames.to_device(self._compute, 0, nbytes)}
        steps = upload | self._steps(slot, batch)
        marks = [self._driver.Event().record(self._compute)]
        for step in steps.values():
            step()
            marks.append(self._driver.Event().record(self._compute))
        self._compute.synchronize()
        found = {name: marks[i].time_till(marks[i + 1]) for i, name in enumerate(steps)}
        return {**found, GPU: begun.time_till(ended)}

    def prepare(self, slot: Slot, batch: int) -> None:
        """Makes what the first run would otherwise find to be missing."""
        self._context(slot, batch)

    def set_thresholds(self, *, score_threshold: float | None, iou_threshold: float | None) -> None:
        """From the next submission on; None leaves one as it is.

        Raises:
            ValueError: out of range, or the network has them built in.
        """
        if self._kernels is None:
            raise ValueError(
                "thresholds: expected an engine built with --postprocess kernels; in this one they are built in"
            )
        self._compute.synchronize()  # what is on its way keeps the old ones
        host: npt.NDArray[np.float32] = self._parameters.host.view(np.float32)
        set_thresholds(host, score_threshold=score_threshold, iou_threshold=iou_threshold)
        self._parameters.to_device(self._compute)

    def synchronize(self) -> None:
        """Waits for everything."""
        self._copies.synchronize()
        self._compute.synchronize()

    def close(self) -> None:
        """Gives everything back; nothing may be running."""
        self._stack.close()

    def _upload(self, values: npt.NDArray[np.float32], stack: ExitStack, *, integrated: bool) -> SharedMemory:
        memory = SharedMemory(self._driver, values.nbytes, integrated=integrated)
        stack.callback(memory.free)
        memory.host.view(np.float32)[:] = values
        memory.to_device(self._compute)
        self._compute.synchronize()
        self._addresses[PARAMETERS] = memory.device
        return memory

    def _run_and_record(self, slot: Slot, batch: int) -> None:
        """One by one, with a CUDA graph for the next time if that can be had."""
        steps = self._steps(slot, batch)

        def work() -> None:
            for step in steps.values():
                step()

        work()  # first: TensorRT settles a new context on its first run, which cannot be recorded
        if not self._records:
            return
        try:
            slot.graphs[batch] = CudaGraph(self._driver, self._compute, work)
        except (DeviceError, MissingDependencyError) as error:
            self._refused += 1
            self._records = self._refused < GRAPH_TRIES and isinstance(error, DeviceError)
            if not self._records:
                # In words: what keeps the log would keep the error's frames too, with streams and memory in them.
                log.warning("no CUDA graph, each kernel is launched by itself: %s", str(error))

    def _steps(self, slot: Slot, batch: int) -> Steps:
        """What puts each stage from the letterbox to the copy back on the compute stream."""
        if batch in slot.steps:
            return slot.steps[batch]
        addresses = {**self._addresses, **slot.found, FRAMES: slot.frames.device}
        letterbox, kernels = letterbox_launch(self._network.contract.input_size, batch), self._kernels
        context = self._context(slot, batch)
        steps: Steps = {
            PREPROCESS: lambda: launch_kernel(letterbox, self._letterbox, addresses, self._compute),
            NETWORK: lambda: context.enqueue(self._compute),
        }
        if kernels is not None:
            steps[POSTPROCESS] = lambda: kernels.launch(addresses, batch, self._compute)
        steps[D2H] = lambda: slot.copy_back(self._compute)
        slot.steps[batch] = steps
        return steps

    def _context(self, slot: Slot, batch: int) -> Context:
        """Slots share it where raw heads come out, which lie in the same place for all of them."""
        found = {**self._addresses, **slot.found}
        addresses = {name: found[name] for name in sorted(self._network.tensors)}
        key = (batch, *addresses.values())
        if key not in self._contexts:
            self._contexts[key] = self._network.context(batch, addresses)
        return self._contexts[key]

    def _close_contexts(self) -> None:
        while self._contexts:
            self._contexts.popitem()[1].close()

    def _forget(self) -> None:
        """Drops what the driver's library frees with its last reference."""
        self._copies = self._compute = self._letterbox = None
