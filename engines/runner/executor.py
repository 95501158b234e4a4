"""Runs an engine: frames in host memory in, detections in host memory out, several on their way at a time.

    frames ─copy stream─▶ GPU ─┐ uploaded
                               └─compute stream─▶ letterbox ▶ engine [▶ Filter ▶ Select ▶ NMS] ▶ copy back ─▶ done

Each submission takes a slot: pinned memory for frames and detections, with an event at either end. What lies between
the copies exists once, for the compute stream does one thing at a time; meanwhile the next frames go up. What a slot
has on the compute stream is recorded as a CUDA graph the first time, one for each batch size.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engines.backend import find_backend
from engines.build_options import KERNELS
from engines.contract import DetectorContract
from engines.cuda import primary_context
from engines.errors import DeviceError, MissingDependencyError
from engines.executor import D2H, GPU, H2D, NETWORK, PACK, POSTPROCESS, PREPROCESS, Ticket
from engines.letterbox import Letterbox, as_bgr
from engines.machine import this_machine
from engines.names import PARAMETERS
from engines.passport import Passport, check_engine, read_engine
from engines.plugins.kernels import PostprocessKernels, load_kernel, put
from engines.plugins.launch import Geometry, plan
from engines.plugins.parameters import pack_parameters, set_thresholds
from engines.plugins.reference import RawDetections
from engines.runner.cuda_graph import CudaGraph
from engines.runner.frames import FRAMES, letterbox_launch, pack, packed_bytes
from engines.runner.network import TensorRTContext, TensorRTNetwork
from engines.runner.slot import EngineTicket, Slot

log = logging.getLogger(__name__)

# CU_STREAM_NON_BLOCKING: does not wait for the default stream, which torch and others use.
_NON_BLOCKING = 1

_Steps: TypeAlias = dict[str, Callable[[], object]]


class EngineExecutor:
    """An ``Executor`` on an NVIDIA GPU; any thread may call it.

    Args:
        path: an engine of ``retina-edge build``, with its passport beside it.
        in_flight: submissions on their way at a time; each takes pinned memory for its frames.
        device: which GPU.
        cuda_graph: launch everything from the letterbox to the copy back as one; without cuda-bindings, or where the
            driver cannot record it, one by one all the same, and the log says why.

    Raises:
        ModelFileError: a file is missing or damaged.
        MissingDependencyError: TensorRT or pycuda is not installed.
        DeviceError: no GPU, another GPU or TensorRT than the engine is for, or too little memory.
    """

    def __init__(self, path: Path | str, *, in_flight: int = 2, device: int = 0, cuda_graph: bool = True) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, got {in_flight}")
        path, machine = Path(path), this_machine()
        backend = find_backend(read_engine(path).backend, machine)
        passport = check_engine(path, backend=backend.name, version=backend.version, machine=machine)
        self.contract: DetectorContract = passport.contract
        smallest, _, self.max_batch = passport.batch
        self.batch: int | None = self.max_batch if smallest == self.max_batch else None
        self._device = device
        self._lock = threading.Lock()
        self._waiting: deque[EngineTicket] = deque()  # oldest first
        self._slots: deque[Slot] = deque()  # free ones
        self._copies: Any = None  # streams
        self._compute: Any = None
        self._letterbox: Any = None
        self._has_run = False
        self._stack: ExitStack | None = None
        self._records = cuda_graph and not backend.is_rtx  # TensorRT-RTX does it itself
        with primary_context(device) as driver, ExitStack() as stack:
            # Released last: nothing of the driver's may outlive this call's context.
            stack.callback(self._forget)
            self._network = TensorRTNetwork(driver, path, passport, backend, cuda_graph=cuda_graph)
            stack.callback(self._network.close)
            stack.callback(self._network.save_cache)
            self._allocate(driver, passport, in_flight, stack)
            self._stack = stack.pop_all()
        _open.add(self)

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]]) -> EngineTicket:
        """Sends frames on their way, and comes back before they are detected.

        When all slots are taken it waits for the oldest, whose detections its ticket then keeps.

        Raises:
            ValueError: none or too many frames, or one that is none; the executor is closed.
            DeviceError: the GPU fails.
        """
        bgr, letterboxes = self._letterboxes(frames)
        batch = self.batch or len(bgr)
        with self._lock, self._driver() as driver:
            slot = self._free_slot(driver, letterboxes, batch)
            self._enqueue(slot, batch, pack(bgr, letterboxes, batch, slot.frames.host))
            self._slots.remove(slot)
            ticket = EngineTicket(letterboxes, slot)
            self._waiting.append(ticket)
            return ticket

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        """Milliseconds of each stage, once; the first times are those of warming up.

        ``pack``, the copy into pinned memory, is by the host's clock. By the GPU's are the stages one by one, without
        a CUDA graph, and ``GPU``, from the first byte up to the last byte down as ``submit`` does it. ``postprocess``
        is missing where the engine has it inside.

        Raises: as ``submit``.
        """
        bgr, letterboxes = self._letterboxes(frames)
        batch = self.batch or len(bgr)
        with self._lock, self._driver() as driver:
            while self._waiting:  # the GPU is to be idle
                self._fetch(self._waiting[0])
            slot = self._free_slot(driver, letterboxes, batch)
            start = perf_counter()
            nbytes = pack(bgr, letterboxes, batch, slot.frames.host)
            found = {PACK: 1000 * (perf_counter() - start)}
            begun, ended = driver.Event(), driver.Event()
            begun.record(self._copies)
            self._enqueue(slot, batch, nbytes)
            ended.record(self._compute)
            ended.synchronize()
            assert self._context is not None
            upload: _Steps = {H2D: lambda: slot.frames.to_device(nbytes, self._compute)}
            steps = upload | self._steps(slot, batch, self._context)
            marks = [driver.Event().record(self._compute)]
            for step in steps.values():
                step()
                marks.append(driver.Event().record(self._compute))
            self._compute.synchronize()
            found |= {name: marks[i].time_till(marks[i + 1]) for i, name in enumerate(steps)}
            return {**found, GPU: begun.time_till(ended)}

    def result(self, ticket: Ticket) -> RawDetections:
        """Waits for what was submitted; the arrays are the caller's. Tickets may come in any order, and twice.

        Raises:
            ValueError: not a ticket of this executor, or it is closed.
            DeviceError: the GPU fails.
        """
        if not isinstance(ticket, EngineTicket):
            raise ValueError(f"ticket: expected one of this executor's submit, got {ticket!r}")
        if (slot := ticket.slot) is not None:
            with primary_context(self._device):
                slot.done.synchronize()  # outside the lock: others may submit meanwhile
        with self._lock, primary_context(self._device):
            if ticket.found is None:
                self._check_open()
                if ticket not in self._waiting:
                    raise ValueError("ticket: expected one of this executor's submit, got another's")
                self._fetch(ticket)
            assert ticket.found is not None
            return ticket.found

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Changes what is kept, from the next submission on; None leaves one as it is.

        Raises:
            ValueError: out of range, or thresholds that are built into the engine.
        """
        if self._kernels is None:
            raise ValueError(
                "thresholds: expected an engine built with --postprocess kernels; in this one they are built in"
            )
        with self._lock, primary_context(self._device) as driver:
            self._check_open()
            set_thresholds(self._parameters, score_threshold=score_threshold, iou_threshold=iou_threshold)
            self._compute.synchronize()  # what is on its way keeps the old ones
            driver.memcpy_htod(self._addresses[PARAMETERS], self._parameters)

    def close(self) -> None:
        """Waits for what is on its way and gives everything back; twice does no harm."""
        with self._lock:
            if self._stack is None:
                return
            stack, self._stack = self._stack, None
            with primary_context(self._device):
                stack.close()

    def __del__(self) -> None:
        # What was not closed has to go while a context is current, or TensorRT and pycuda find none.
        if getattr(self, "_stack", None) is not None:
            self.close()

    def _allocate(self, driver: Any, passport: Passport, in_flight: int, stack: ExitStack) -> None:
        contract, batch = self.contract, self.max_batch
        half = any(tensor["type"] == "half" for tensor in passport.outputs)
        geometry = Geometry.of(contract, half=half)
        found = plan(geometry, batch)[-1].outputs
        self._letterbox = load_kernel(driver, letterbox_launch(contract.input_size, batch))
        self._addresses: dict[str, int] = {}
        tensors = list(letterbox_launch(contract.input_size, batch).outputs)
        self._kernels: PostprocessKernels | None = None
        if passport.postprocess == KERNELS:
            self._kernels = stack.enter_context(PostprocessKernels(driver, geometry, batch))
            tensors += geometry.inputs(batch).values()
        for tensor in tensors:
            allocation = driver.mem_alloc(tensor.nbytes)
            stack.callback(allocation.free)
            self._addresses[tensor.name] = int(allocation)
        self._parameters = pack_parameters(contract)
        if self._kernels is not None:
            driver.memcpy_htod(self._addresses[PARAMETERS], self._parameters)
        self._bound = {tensor["name"] for tensor in (*passport.inputs, *passport.outputs)}
        self._context: TensorRTContext | None = self._network.context()
        stack.callback(self._context.close)
        integrated = bool(driver.Device(self._device).get_attribute(driver.device_attribute.INTEGRATED))
        self._copies, self._compute = driver.Stream(_NON_BLOCKING), driver.Stream(_NON_BLOCKING)
        for _ in range(in_flight):
            self._slots.append(slot := Slot(driver, found, integrated=integrated))
            stack.callback(slot.free)
        # Freed first, once all is done.
        stack.callback(self._compute.synchronize)
        stack.callback(self._copies.synchronize)

    def _enqueue(self, slot: Slot, batch: int, nbytes: int) -> None:
        slot.frames.to_device(nbytes, self._copies)
        slot.uploaded.record(self._copies)
        self._compute.wait_for_event(slot.uploaded)
        if (graph := slot.graphs.get(batch)) is not None:
            graph.launch()
        else:
            self._run_and_record(slot, batch)
        slot.done.record(self._compute)

    def _run_and_record(self, slot: Slot, batch: int) -> None:
        """One by one, with a CUDA graph for the next time if that can be had."""
        context = slot.contexts.get(batch) or self._context
        if self._records and context is self._context:
            # A graph of its own context, which nothing changes afterwards, as TensorRT demands.
            context = slot.contexts[batch] = self._network.context()
        assert context is not None
        steps = self._steps(slot, batch, context)

        def work() -> None:
            for step in steps.values():
                step()

        work()  # first: TensorRT settles a new shape on its first run, which cannot be recorded
        if not self._records:
            return
        try:
            slot.graphs[batch] = CudaGraph(self._compute, work)
        except (DeviceError, MissingDependencyError) as error:
            self._records = False
            # In words: what keeps the log would keep the error's frames too, with streams and memory in them.
            log.warning("no CUDA graph, each kernel is launched by itself: %s", str(error))

    def _steps(self, slot: Slot, batch: int, context: TensorRTContext) -> _Steps:
        """What puts each stage from the letterbox to the copy back on the compute stream."""
        addresses = {**self._addresses, **slot.found, FRAMES: slot.frames.device}
        letterbox, kernels = letterbox_launch(self.contract.input_size, batch), self._kernels
        context.bind({name: address for name, address in addresses.items() if name in self._bound})
        steps: _Steps = {
            PREPROCESS: lambda: put(letterbox, self._letterbox, addresses, self._compute),
            NETWORK: lambda: context.enqueue(batch, self._compute),
        }
        if kernels is not None:
            steps[POSTPROCESS] = lambda: kernels.launch(addresses, batch, self._compute)
        steps[D2H] = lambda: slot.copy_back(self._compute)
        return steps

    def _letterboxes(
        self, frames: Sequence[npt.NDArray[np.uint8]]
    ) -> tuple[list[npt.NDArray[np.uint8]], list[Letterbox]]:
        bgr = [as_bgr(frame) for frame in frames]
        if not 1 <= len(bgr) <= self.max_batch:
            raise ValueError(f"frames: expected 1 to {self.max_batch}, the engine's batch, got {len(bgr)}")
        return bgr, [Letterbox.fit((frame.shape[0], frame.shape[1]), self.contract.input_size) for frame in bgr]

    @contextmanager
    def _driver(self) -> Iterator[Any]:
        """The driver, for putting work on the streams: after an error nothing is left that touches a slot."""
        with primary_context(self._device) as driver:
            self._check_open()
            try:
                yield driver
            except BaseException:
                with suppress(driver.Error):
                    self._copies.synchronize()
                    self._compute.synchronize()
                raise

    def _free_slot(self, driver: Any, letterboxes: Sequence[Letterbox], batch: int) -> Slot:
        """One with room for the frames; the oldest submission gives up its own where all are taken."""
        slot = self._slots[0] if self._slots else self._fetch(self._waiting[0])
        slot.reserve(driver, packed_bytes([letterbox.frame_size for letterbox in letterboxes], batch))
        return slot

    def _fetch(self, ticket: EngineTicket) -> Slot:
        """Moves the detections into the ticket and frees its slot."""
        slot = ticket.slot
        assert slot is not None
        slot.done.synchronize()
        ticket.found = slot.detections(self.batch or len(ticket.letterboxes))
        ticket.slot = None
        if not self._has_run:
            self._has_run = True
            self._network.save_cache()  # now, too: not everybody closes
        self._waiting.remove(ticket)
        self._slots.append(slot)
        return slot

    def _check_open(self) -> None:
        if self._stack is None:
            raise ValueError("the detector is closed; load it again")

    def _forget(self) -> None:
        """Drops what the driver's library frees with its last reference."""
        self._slots.clear()
        for ticket in self._waiting:
            ticket.slot = None
        self._waiting.clear()
        self._copies = self._compute = self._letterbox = self._context = None


_open: weakref.WeakSet[EngineExecutor] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before ``engines.cuda`` gives the contexts back."""
    for executor in list(_open):
        executor.close()
