"""Runs an engine: frames in host memory in, detections in host memory out, several on their way at a time.

    frames ─copy stream─▶ GPU ─┐ uploaded
                               └─compute stream─▶ letterbox ▶ engine [▶ Filter ▶ Select ▶ NMS] ▶ copy back ─▶ done

Each submission takes a slot: pinned memory for frames and detections, with an event at either end. What lies between
the copies exists once, for the compute stream does one thing at a time; meanwhile the next frames go up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.backend import Backend, find_backend
from engines.build_options import KERNELS
from engines.contract import DetectorContract
from engines.cuda import primary_context
from engines.executor import Ticket
from engines.letterbox import Letterbox, as_bgr
from engines.machine import this_machine
from engines.names import PARAMETERS
from engines.passport import Passport, check_engine, read_engine
from engines.plugins.kernels import PostprocessKernels, load_kernel, put
from engines.plugins.launch import Geometry, Tensor, plan
from engines.plugins.parameters import logit, pack_parameters
from engines.plugins.reference import RawDetections
from engines.runner.frames import FRAMES, UNIT, letterbox_launch, pack, packed_bytes
from engines.runner.memory import SharedMemory
from engines.runner.network import TensorRTNetwork

# CU_STREAM_NON_BLOCKING: does not wait for the default stream, which torch and others use.
_NON_BLOCKING = 1


class EngineTicket(Ticket):
    """What ``EngineExecutor.submit`` gives; holds the detections once they were fetched."""

    def __init__(self, letterboxes: Sequence[Letterbox], slot: _Slot) -> None:
        super().__init__(letterboxes)
        self.slot: _Slot | None = slot
        self.found: RawDetections | None = None


class EngineExecutor:
    """An ``Executor`` on an NVIDIA GPU; any thread may call it.

    Args:
        path: an engine of ``retina-edge build``, with its passport beside it.
        in_flight: submissions on their way at a time; each takes pinned memory for its frames.
        device: which GPU.

    Raises:
        ModelFileError: a file is missing or damaged.
        MissingDependencyError: TensorRT or pycuda is not installed.
        DeviceError: no GPU, another GPU or TensorRT than the engine is for, or too little memory.
    """

    def __init__(self, path: Path | str, *, in_flight: int = 2, device: int = 0) -> None:
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
        self._slots: deque[_Slot] = deque()  # free ones
        self._copies: Any = None  # streams
        self._compute: Any = None
        self._letterbox: Any = None
        with primary_context(device) as driver, ExitStack() as stack:
            self._allocate(driver, path, passport, backend, in_flight, stack)
            self._stack: ExitStack | None = stack.pop_all()

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]]) -> EngineTicket:
        """Sends frames on their way, and comes back before they are detected.

        When all slots are taken it waits for the oldest, whose detections its ticket then keeps.

        Raises:
            ValueError: none or too many frames, or one that is none; the executor is closed.
            DeviceError: the GPU fails.
        """
        bgr = [as_bgr(frame) for frame in frames]
        if not 1 <= len(bgr) <= self.max_batch:
            raise ValueError(f"frames: expected 1 to {self.max_batch}, the engine's batch, got {len(bgr)}")
        letterboxes = [Letterbox.fit((frame.shape[0], frame.shape[1]), self.contract.input_size) for frame in bgr]
        with self._lock, primary_context(self._device) as driver:
            self._check_open()
            slot = self._slots[0] if self._slots else self._fetch(self._waiting[0])
            batch = self.batch or len(bgr)
            slot.reserve(driver, packed_bytes([letterbox.frame_size for letterbox in letterboxes], batch))
            try:
                self._enqueue(slot, batch, pack(bgr, letterboxes, batch, slot.frames.host))
            except BaseException:
                with suppress(driver.Error):  # nothing may be left that touches the slot
                    self._copies.synchronize()
                    self._compute.synchronize()
                raise
            self._slots.remove(slot)
            ticket = EngineTicket(letterboxes, slot)
            self._waiting.append(ticket)
            return ticket

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
        for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name}: expected 0 <= {name} < 1, got {value:g}")
        with self._lock, primary_context(self._device) as driver:
            self._check_open()
            if score_threshold is not None:
                self._parameters[0] = logit(score_threshold)
            if iou_threshold is not None:
                self._parameters[1] = iou_threshold
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

    def _allocate(
        self, driver: Any, path: Path, passport: Passport, backend: Backend, in_flight: int, stack: ExitStack
    ) -> None:
        contract, batch = self.contract, self.max_batch
        half = any(tensor["type"] == "half" for tensor in passport.outputs)
        geometry = Geometry.of(contract, half=half)
        self._found = plan(geometry, batch)[-1].outputs
        # Released last: nothing of the driver's may outlive this call's context.
        stack.callback(self._forget)
        self._network: _Network = TensorRTNetwork(path, passport, backend)
        stack.callback(self._network.close)
        stack.callback(self._network.save_cache)
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
        bound = {tensor["name"] for tensor in (*passport.inputs, *passport.outputs)}
        self._network.bind({name: address for name, address in self._addresses.items() if name in bound})
        self._binds_found = passport.postprocess != KERNELS
        integrated = bool(driver.Device(self._device).get_attribute(driver.device_attribute.INTEGRATED))
        self._copies, self._compute = driver.Stream(_NON_BLOCKING), driver.Stream(_NON_BLOCKING)
        for _ in range(in_flight):
            self._slots.append(slot := _Slot(driver, _packed(self._found)[1], integrated=integrated))
            stack.callback(slot.free)
        # Freed first, once all is done.
        stack.callback(self._compute.synchronize)
        stack.callback(self._copies.synchronize)

    def _enqueue(self, slot: _Slot, batch: int, nbytes: int) -> None:
        offsets, _ = _packed(self._found)
        found = {name: slot.found.device + offset for name, offset in offsets.items()}
        slot.frames.to_device(nbytes, self._copies)
        slot.uploaded.record(self._copies)
        self._compute.wait_for_event(slot.uploaded)
        addresses = {**self._addresses, **found, FRAMES: slot.frames.device}
        put(letterbox_launch(self.contract.input_size, batch), self._letterbox, addresses, self._compute)
        if self._binds_found:
            self._network.bind(found)
        self._network.enqueue(batch, self._compute)
        if self._kernels is not None:
            self._kernels.launch(addresses, batch, self._compute)
        slot.found.to_host(self._compute)
        slot.done.record(self._compute)

    def _fetch(self, ticket: EngineTicket) -> _Slot:
        """Moves the detections into the ticket and frees its slot."""
        slot = ticket.slot
        assert slot is not None
        slot.done.synchronize()
        offsets, _ = _packed(self._found)
        arrays = [
            slot.found.host[offsets[tensor.name] :][: tensor.nbytes].view(tensor.dtype).reshape(tensor.shape).copy()
            for tensor in self._found
        ]
        count = self.batch or len(ticket.letterboxes)
        ticket.found = RawDetections(*(array[:count] for array in arrays))
        ticket.slot = None
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
        self._copies = self._compute = self._letterbox = None


class _Network(Protocol):
    """What turns images into heads or detections on a stream."""

    def bind(self, addresses: Mapping[str, int]) -> None: ...

    def enqueue(self, batch: int, stream: Any) -> None: ...

    def save_cache(self) -> None: ...

    def close(self) -> None: ...


class _Slot:
    """What one submission on its way has to itself."""

    def __init__(self, driver: Any, found_bytes: int, *, integrated: bool) -> None:
        self._integrated = integrated
        self.frames: SharedMemory | Any = None
        self.found = SharedMemory(driver, found_bytes, integrated=integrated)
        self.uploaded, self.done = driver.Event(), driver.Event()

    def reserve(self, driver: Any, nbytes: int) -> None:
        """Makes room for frames; what is large enough stays."""
        if self.frames is not None:
            if len(self.frames.host) >= nbytes:
                return
            self.frames.free()
            self.frames = None
        self.frames = SharedMemory(driver, nbytes, integrated=self._integrated)

    def free(self) -> None:
        if self.frames is not None:
            self.frames.free()
        self.found.free()


def _packed(tensors: Sequence[Tensor]) -> tuple[dict[str, int], int]:
    """Where each tensor begins in one block of memory, as TensorRT wants it aligned, and the size of the block."""
    offsets, end = {}, 0
    for tensor in tensors:
        offsets[tensor.name] = end
        end += -(-tensor.nbytes // UNIT) * UNIT
    return offsets, end
