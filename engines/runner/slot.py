"""What one submission on its way has to itself: a ticket for the caller, a slot for the executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engines.core.executor import RawDetections, Ticket
from engines.core.letterbox import Letterbox
from engines.plugins.launch import Tensor
from engines.runner.cuda_graph import CudaGraph
from engines.runner.packed_frames import UNIT
from engines.runner.shared_memory import SharedMemory

# What puts each stage on the compute stream, by the stage's name.
Steps: TypeAlias = dict[str, Callable[[], object]]


class EngineTicket(Ticket):
    """What ``GpuExecutor.submit`` gives; holds the detections once they were fetched."""

    def __init__(self, letterboxes: Sequence[Letterbox], slot: Slot) -> None:
        super().__init__(letterboxes)
        self.slot: Slot | None = slot
        self.found: RawDetections | None = None


class Slot:
    """Memory for frames and for what is found in them, and an event at either end of the way.

    Args:
        driver: from ``engines.core.cuda_context.primary_context``; its context must be current here and in every call.
        found: the tensors found, for the largest batch.
        integrated: the GPU has no memory of its own.

    Attributes:
        frames: packed frames, once ``reserve`` was called.
        found: device address of each tensor found.
        uploaded, done: the events; None once it was freed, for the sake of who still holds the slot.
        steps, graphs: by batch size; both know the addresses that they were made with.
    """

    def __init__(self, driver: Any, found: Sequence[Tensor], *, integrated: bool) -> None:
        self._integrated, self._tensors = integrated, tuple(found)
        self._offsets: list[int] = []
        end = 0
        for tensor in found:  # in one block, for one copy back, each aligned as TensorRT wants it
            self._offsets.append(end)
            end += -(-tensor.nbytes // UNIT) * UNIT
        self.frames: SharedMemory | Any = None
        self._block = SharedMemory(driver, end, integrated=integrated)
        self.found = {
            tensor.name: self._block.device + offset for tensor, offset in zip(found, self._offsets, strict=True)
        }
        # After what may fail: an error's traceback would hold them until long after the context is gone.
        self.uploaded: Any = driver.Event()
        self.done: Any = driver.Event()
        self.steps: dict[int, Steps] = {}
        self.graphs: dict[int, CudaGraph] = {}

    def reserve(self, driver: Any, nbytes: int) -> None:
        """Makes room for frames; what is large enough stays."""
        if self.frames is not None:
            if len(self.frames.host) >= nbytes:
                return
            self._forget_addresses()
            self.frames.free()
            self.frames = None
        self.frames = SharedMemory(driver, nbytes, integrated=self._integrated)

    def copy_back(self, stream: Any) -> None:
        """Everything found to the host, in one copy."""
        self._block.to_host(stream)

    def detections(self, count: int) -> RawDetections:
        """Copies of what was found for the first images, after ``done``."""
        arrays: list[npt.NDArray[Any]] = []
        for tensor, offset in zip(self._tensors, self._offsets, strict=True):
            content: npt.NDArray[np.uint8] = self._block.host[offset:][: tensor.nbytes]
            arrays.append(content.view(tensor.dtype).reshape(tensor.shape)[:count].copy())
        return RawDetections(*arrays)

    def free(self) -> None:
        """Gives everything back; nothing may be using it any more."""
        self._forget_addresses()
        if self.frames is not None:
            self.frames.free()
        self._block.free()
        self.uploaded = self.done = None

    def _forget_addresses(self) -> None:
        self.steps.clear()
        while self.graphs:
            self.graphs.popitem()[1].free()
