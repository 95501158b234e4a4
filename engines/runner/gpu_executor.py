"""Run a network on a GPU: frames in host memory to detections in host memory, with several submissions in flight.

Each submission takes a slot. ``Stages`` enqueues its work on CUDA streams, and ``result(ticket)`` waits for it.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract
from engines.core.cuda_context import primary_context
from engines.core.executor import PACK, RawDetections, Ticket
from engines.core.frame_pool import FramePool
from engines.core.frame_region import Frame, FrameRegion, gpu_frame_of
from engines.core.gpu_frame import GpuFrame, Pixels
from engines.core.letterbox import as_bgr
from engines.runner.caller_stream import check_is_on
from engines.runner.cuda_graph import GraphUse
from engines.runner.network import Network
from engines.runner.packed_frames import Layout, layout_of
from engines.runner.packing import Packer
from engines.runner.pinned_memory import pin_memory
from engines.runner.slot import EngineTicket, Slot
from engines.runner.stages import Stages


class GpuExecutor:
    """An ``Executor`` on an NVIDIA GPU. Thread-safe.

    Args:
        load: function from the module ``pycuda.driver`` to the loaded network. It is called while the primary context
            is current.
        in_flight: largest number of submissions in flight; each takes pinned memory for its frames.
        device: number of the GPU.
        cuda_graph: True to launch all stages from the letterbox to the download as one CUDA graph. Without
            cuda-bindings, or if the driver cannot capture the work, each kernel is launched separately and a warning
            says why.

    Attributes:
        contract: contract of the model.
        batch: batch size of the network if it is fixed, else None.
        max_batch: largest batch size of the network.
        pool: pinned frames, which are uploaded from where they lie.
        tuned_batch: batch size that the engine is tuned for; None if it is not known.

    Raises:
        ValueError: if ``in_flight`` is less than 1.
        MissingDependencyError: if pycuda is not installed.
        DeviceError: if there is no GPU or too little memory.
    """

    tuned_batch: int | None = None

    def __init__(
        self, load: Callable[[Any], Network], *, in_flight: int = 2, device: int = 0, cuda_graph: bool = True
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, got {in_flight}")
        self._device, self._context = device, primary_context(device)
        self._lock = threading.Lock()
        self._waiting: deque[EngineTicket] = deque()  # submissions in flight, oldest first
        self._slots: deque[Slot] = deque()  # free slots
        self._has_run = False
        self._stack: ExitStack | None = None
        with self._context as driver, ExitStack() as stack:
            self._network = load(driver)
            stack.callback(self._network.close)
            stack.callback(self._network.save_cache)
            self.contract: DetectorContract = self._network.contract
            smallest, self.max_batch = self._network.batches
            self.batch: int | None = self.max_batch if smallest == self.max_batch else None
            integrated = bool(driver.Device(device).get_attribute(driver.device_attribute.INTEGRATED))
            packer = Packer()
            self.pool = FramePool(partial(pin_memory, gpu=device, integrated=integrated))
            stack.callback(self.pool.close)
            network, pool = self._network, self.pool
            self._stages = Stages(driver, network, pool, packer, integrated=integrated, cuda_graph=cuda_graph)
            stack.callback(self._stages.close)
            stack.callback(self._forget_slots)
            for _ in range(in_flight):
                self._slots.append(Slot(driver, self._stages.outputs, self.pool, packer, integrated=integrated))
                stack.callback(self._slots[-1].free)
                self._stages.prepare(self._slots[-1], self.batch or 1)
            stack.callback(packer.close)
            stack.callback(self._stages.synchronize)
            self._stack = stack.pop_all()
        _open.add(self)

    def submit(self, frames: Sequence[Frame]) -> EngineTicket:
        """Submit frames and return a ticket for ``result`` without waiting for the detections.

        Frames of ``pool`` are held, and must not be modified, until ``result`` has returned; see ``GpuFrame`` for those
        on the GPU. Others may be modified afterwards. If all slots are taken, the call first waits for the oldest
        submission in flight and stores its detections in its ticket.

        Args:
            frames: 1 to ``max_batch`` frames of any sizes, each of a kind that ``as_bgr`` takes, a ``GpuFrame``, or a
                region of one of these.

        Raises:
            ValueError: if there are no frames or too many, an array is not a frame, or the executor is closed.
            DeviceError: if the GPU fails, or a frame is on another GPU.
            MissingDependencyError: if a frame is on the GPU, and cuda-bindings is not installed.
        """
        prepared, layout, on_gpu = self._prepare(frames)
        batch = self.batch or len(prepared)
        with self._lock, self._context as driver:
            self._check_open()
            try:  # as in ``_working``, which as a generator would cost each frame more time
                slot = self._free_slot(layout, on_gpu)
                self._stages.enqueue(slot, batch, slot.frames.fill(prepared, layout, batch), on_gpu)
            except BaseException:
                self._recover(driver)
                raise
            self._slots.remove(slot)
            ticket = EngineTicket(layout.letterboxes, slot)
            self._waiting.append(ticket)
            return ticket

    def upload(self, frame: npt.NDArray[np.uint8]) -> Pixels:
        """Upload a frame once, so that submissions can read regions of it; see ``Executor.upload``.

        Returns:
            Where the frame is on the GPU. The memory is used again when this object and its regions are gone.

        Raises:
            ValueError, DeviceError: for the same reasons as ``submit``.
        """
        picture = as_bgr(frame)

        def wait() -> bool:
            if self._waiting:
                self._fetch(self._waiting[0])
                return True
            return False

        with self._lock, self._working():
            return self._stages.upload(picture, wait)

    def result(self, ticket: Ticket) -> RawDetections:
        """Wait for a submission and return its detections. The caller owns the arrays.

        Tickets may be passed in any order, and more than once.

        Raises:
            ValueError: if the ticket is not from this executor, or the executor is closed.
            DeviceError: if the GPU fails.
        """
        if not isinstance(ticket, EngineTicket):
            raise ValueError(f"ticket: expected one from this executor's submit, got {ticket!r}")
        with self._context:
            _wait(ticket)  # without the lock, so that other threads can submit meanwhile
            with self._lock:
                if ticket.detections is None:
                    self._check_open()
                    if ticket not in self._waiting:
                        raise ValueError("ticket: expected one of this executor, got one from another executor")
                    self._fetch(ticket)
                assert ticket.detections is not None
                return ticket.detections

    def measure(self, frames: Sequence[Frame]) -> dict[str, float]:
        """Return the milliseconds of each stage for one submission. The first calls measure the warm-up.

        The host measures ``pack``, the copy of frames that are not in ``pool`` into pinned memory. The GPU measures the
        other stages one by one, without a CUDA graph. The GPU also measures ``GPU``, the time from the first byte of
        the upload to the last byte of the download. For that measurement the stages run as in ``submit``, but the
        frames are packed beforehand.
        ``postprocess`` is missing if the post-processing is part of the engine.

        Raises:
            ValueError, DeviceError: for the same reasons as ``submit``.
        """
        prepared, layout, on_gpu = self._prepare(frames)
        batch = self.batch or len(prepared)
        with self._lock, self._working():
            while self._waiting:  # the GPU must be idle
                self._fetch(self._waiting[0])
            slot = self._free_slot(layout, on_gpu)
            start = perf_counter()
            uploads = list(slot.frames.fill(prepared, layout, batch))
            packing = 1000 * (perf_counter() - start)
            times = self._stages.measure(slot, batch, uploads, on_gpu)
            slot.frames.release()
            return {PACK: packing, **times}

    def raw_heads(self, batch: int) -> list[npt.NDArray[Any]]:
        """Return the raw heads of the last submission, to compare networks with each other.

        Args:
            batch: number of frames of that submission, or more, up to the batch size of the network.

        Returns:
            The class logits of each level, then its box deltas, float16 or float32 [batch, channels, h, w]. The list is
            empty if the post-processing is part of the engine.

        Raises:
            ValueError, DeviceError: for the same reasons as ``submit``.
        """
        with self._lock, self._working():
            while self._waiting:  # the GPU must be idle
                self._fetch(self._waiting[0])
            return self._stages.raw_heads(batch)

    @property
    def graph_use(self) -> GraphUse:
        """How many submissions were launched as a CUDA graph so far."""
        return self._stages.graph_use

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Change the thresholds from the next submission on; None leaves a threshold as it is.

        Raises:
            ValueError: if a threshold is out of range, or the thresholds are built into the engine.
        """
        with self._lock, self._working():
            self._stages.set_thresholds(score_threshold=score_threshold, iou_threshold=iou_threshold)

    def close(self) -> None:
        """Wait for the submissions in flight and free all resources. A second call does nothing."""
        with self._lock:
            if self._stack is None:
                return
            stack, self._stack = self._stack, None
            with self._context:
                stack.close()

    def __del__(self) -> None:
        # TensorRT and pycuda can free their objects only while the context is current.
        if getattr(self, "_stack", None) is not None:
            self.close()

    def _prepare(self, frames: Sequence[Frame]) -> tuple[list[Frame], Layout, list[GpuFrame]]:
        """Return frames as ``layout_of`` takes them, their layout, and each of the callers' frames on the GPU once."""
        if not 1 <= len(frames) <= self.max_batch:
            raise ValueError(f"frames: expected 1 to {self.max_batch}, the engine's batch, got {len(frames)}")
        prepared = [_as_packable(frame) for frame in frames]
        others = [gpu_frame_of(frame) for frame in prepared if not isinstance(frame, np.ndarray)]
        on_gpu = {id(frame): frame for frame in others if frame is not None}
        layout = layout_of(prepared, self.contract.input_size, self.batch or len(prepared))
        return prepared, layout, list(on_gpu.values())

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Let a block enqueue work, and recover from an error in it."""
        with self._context as driver:
            self._check_open()
            try:
                yield
            except BaseException:
                self._recover(driver)
                raise

    def _recover(self, driver: Any) -> None:
        """Wait after an error until no work uses a slot anymore, and let go of the frames."""
        with suppress(driver.Error):
            self._stages.synchronize()
        for slot in self._slots:
            slot.frames.reset()

    def _free_slot(self, layout: Layout, on_gpu: Sequence[GpuFrame]) -> Slot:
        """Return a slot with room for the frames. If all slots are taken, fetch the oldest submission to free one."""
        for frame in on_gpu:
            check_is_on(frame, self._device)
        slot = self._slots[0] if self._slots else self._fetch(self._waiting[0])
        if slot.frames.nbytes < layout.nbytes:
            slot.reserve(layout.nbytes)
        return slot

    def _fetch(self, ticket: EngineTicket) -> Slot:
        """Wait for a submission, move its detections into the ticket, and free its slot."""
        slot = ticket.slot
        assert slot is not None
        slot.done.synchronize()
        ticket.detections = slot.detections(self.batch or len(ticket.letterboxes))
        slot.frames.release()
        ticket.slot = None
        self._waiting.remove(ticket)
        self._slots.append(slot)
        if not self._has_run:
            self._has_run = True
            self._network.save_cache()  # not only in close, because the process may end without closing
        return slot

    def _check_open(self) -> None:
        if self._stack is None:
            raise ValueError("the detector is closed; load it again")

    def _forget_slots(self) -> None:
        self._slots.clear()
        for ticket in self._waiting:
            ticket.slot = None
        self._waiting.clear()


def _as_packable(frame: Frame) -> Frame:
    """Return a frame in host memory as BGR, uint8 [h, w, 3]; one on the GPU, or a region of it, as it is."""
    if isinstance(frame, FrameRegion):
        return frame.crop() if isinstance(frame.frame, np.ndarray) else frame
    return frame if isinstance(frame, GpuFrame) else as_bgr(frame)


def _wait(ticket: EngineTicket) -> None:
    """Wait until the submission of a ticket is done.

    This is a separate function so that its references to objects of the driver end while the context is current.
    """
    slot = ticket.slot  # read once, because another thread may fetch the ticket meanwhile
    done = slot.done if slot is not None else None
    if done is not None:
        done.synchronize()


_open: weakref.WeakSet[GpuExecutor] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all executors before ``engines.core.cuda_context`` releases the contexts."""
    for executor in list(_open):
        executor.close()
