"""Runs a network on a GPU: frames in host memory in, detections in host memory out, several on their way at a time.

Each submission takes a slot, ``stages`` puts its way over the GPU on the streams, its ticket fetches what was found.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract
from engines.core.cuda_context import primary_context
from engines.core.executor import PACK, RawDetections, Ticket
from engines.core.letterbox import Letterbox, as_bgr
from engines.runner.network import Network
from engines.runner.packed_frames import pack, packed_bytes
from engines.runner.slot import EngineTicket, Slot
from engines.runner.stages import Stages


class GpuExecutor:
    """An ``Executor`` on an NVIDIA GPU; any thread may call it.

    Args:
        load: gives the network, with the primary context current; takes the module ``pycuda.driver``.
        in_flight: submissions on their way at a time; each takes pinned memory for its frames.
        device: which GPU.
        cuda_graph: launch everything from the letterbox to the copy back as one; without cuda-bindings, or where the
            driver cannot record it, one by one all the same, and the log says why.

    Raises:
        MissingDependencyError: pycuda is not installed.
        DeviceError: no GPU, or too little memory.
    """

    def __init__(
        self, load: Callable[[Any], Network], *, in_flight: int = 2, device: int = 0, cuda_graph: bool = True
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, got {in_flight}")
        self._device = device
        self._lock = threading.Lock()
        self._waiting: deque[EngineTicket] = deque()  # oldest first
        self._slots: deque[Slot] = deque()  # free ones
        self._has_run = False
        self._stack: ExitStack | None = None
        with primary_context(device) as driver, ExitStack() as stack:
            self._network = load(driver)
            stack.callback(self._network.close)
            stack.callback(self._network.save_cache)
            self.contract: DetectorContract = self._network.contract
            smallest, self.max_batch = self._network.batches
            self.batch: int | None = self.max_batch if smallest == self.max_batch else None
            integrated = bool(driver.Device(device).get_attribute(driver.device_attribute.INTEGRATED))
            self._stages = Stages(driver, self._network, integrated=integrated, cuda_graph=cuda_graph)
            stack.callback(self._stages.close)
            stack.callback(self._forget_slots)
            for _ in range(in_flight):
                self._slots.append(Slot(driver, self._stages.found, integrated=integrated))
                stack.callback(self._slots[-1].free)
                self._stages.prepare(self._slots[-1], self.batch or 1)
            stack.callback(self._stages.synchronize)
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
            self._stages.enqueue(slot, batch, pack(bgr, letterboxes, batch, slot.frames.host))
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
        with primary_context(self._device):
            _wait(ticket)  # outside the lock: others may submit meanwhile
        with self._lock, primary_context(self._device):
            if ticket.found is None:
                self._check_open()
                if ticket not in self._waiting:
                    raise ValueError("ticket: expected one of this executor's submit, got another's")
                self._fetch(ticket)
            assert ticket.found is not None
            return ticket.found

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        """Milliseconds of each stage, once; the first times are those of warming up.

        ``pack``, the copy into pinned memory, is by the host's clock. By the GPU's are the stages one by one, without
        a CUDA graph, and ``GPU``, from the first byte up to the last byte down as ``submit`` does it, once all is
        packed. ``postprocess`` is missing where the engine has it inside.

        Raises: as ``submit``.
        """
        bgr, letterboxes = self._letterboxes(frames)
        batch = self.batch or len(bgr)
        with self._lock, self._driver() as driver:
            while self._waiting:  # the GPU is to be idle
                self._fetch(self._waiting[0])
            slot = self._free_slot(driver, letterboxes, batch)
            start = perf_counter()
            *_, (_, nbytes) = pack(bgr, letterboxes, batch, slot.frames.host)
            packing = 1000 * (perf_counter() - start)
            return {PACK: packing, **self._stages.measure(slot, batch, nbytes)}

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Changes what is kept, from the next submission on; None leaves one as it is.

        Raises:
            ValueError: out of range, or thresholds that are built into the engine.
        """
        with self._lock, self._driver():
            self._stages.set_thresholds(score_threshold=score_threshold, iou_threshold=iou_threshold)

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
                    self._stages.synchronize()
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
        self._waiting.remove(ticket)
        self._slots.append(slot)
        if not self._has_run:
            self._has_run = True
            self._network.save_cache()  # now, too: not everybody closes
        return slot

    def _check_open(self) -> None:
        if self._stack is None:
            raise ValueError("the detector is closed; load it again")

    def _forget_slots(self) -> None:
        self._slots.clear()
        for ticket in self._waiting:
            ticket.slot = None
        self._waiting.clear()


def _wait(ticket: EngineTicket) -> None:
    """A function of its own: what it holds of the driver's is gone when it returns, while the context is current."""
    slot = ticket.slot  # once: another thread may fetch it meanwhile
    done = slot.done if slot is not None else None
    if done is not None:
        done.synchronize()


_open: weakref.WeakSet[GpuExecutor] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before ``engines.core.cuda_context`` gives the contexts back."""
    for executor in list(_open):
        executor.close()
