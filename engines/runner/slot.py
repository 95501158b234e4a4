"""The objects of one submission in flight: a ticket for the caller and a slot for the executor."""

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

# Functions that enqueue a stage on the compute stream, by the name of the stage.
Steps: TypeAlias = dict[str, Callable[[], object]]


class EngineTicket(Ticket):
    """A ticket of ``GpuExecutor``, which holds the detections once they are fetched.

    Attributes:
        slot: slot of the submission; None once the detections are fetched or the executor is closed.
        frames: frames in the GPU's own memory, which must stay there as long as ``slot`` is not None.
        detections: detections of the submission; None before they are fetched.
    """

    def __init__(self, letterboxes: Sequence[Letterbox], slot: Slot, frames: Sequence[object] = ()) -> None:
        super().__init__(letterboxes)
        self.slot: Slot | None = slot
        self.frames = tuple(frames)
        self.detections: RawDetections | None = None


class Slot:
    """Memory for the frames and the outputs of one submission, and the events that mark its progress.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        outputs: output tensors of the post-processing, for the largest batch.
        integrated: True if the GPU shares the memory of the host.

    Attributes:
        frames: memory for packed frames; None before the first ``reserve``.
        addresses: device address of each output tensor, by name.
        uploaded, done: events at the end of the upload and of the download. ``free`` sets them to None, because another
            thread may keep the slot alive after the GPU's context.
        steps, graphs: steps for each batch size, and CUDA graphs for each batch size, with the letterbox (False) or
            without (True: the frames are on the GPU). Both contain the addresses of this slot.
    """

    def __init__(self, driver: Any, outputs: Sequence[Tensor], *, integrated: bool) -> None:
        self._integrated, self._tensors = integrated, tuple(outputs)
        self._offsets: list[int] = []
        end = 0
        # One block, so that one copy downloads all outputs. Each output is aligned as TensorRT requires.
        for tensor in outputs:
            self._offsets.append(end)
            end += -(-tensor.nbytes // UNIT) * UNIT
        self.frames: SharedMemory | Any = None
        self._block = SharedMemory(driver, end, integrated=integrated)
        self.addresses = {
            tensor.name: self._block.device + offset for tensor, offset in zip(outputs, self._offsets, strict=True)
        }
        # Created last: if an allocation failed later, the traceback would keep the events alive after the context.
        self.uploaded: Any = driver.Event()
        self.done: Any = driver.Event()
        self.steps: dict[int, Steps] = {}
        self.graphs: dict[tuple[int, bool], CudaGraph] = {}

    def reserve(self, driver: Any, nbytes: int) -> None:
        """Make room for packed frames; keep the memory if it is large enough."""
        if self.frames is not None:
            if len(self.frames.host) >= nbytes:
                return
            self._forget_addresses()
            self.frames.free()
            self.frames = None
        self.frames = SharedMemory(driver, nbytes, integrated=self._integrated)

    def download(self, stream: Any) -> None:
        """Enqueue the download of all outputs, in one copy."""
        self._block.to_host(stream)

    def detections(self, count: int) -> RawDetections:
        """Return copies of the outputs of the first ``count`` images. The event ``done`` must have been reached."""
        arrays: list[npt.NDArray[Any]] = []
        for tensor, offset in zip(self._tensors, self._offsets, strict=True):
            content: npt.NDArray[np.uint8] = self._block.host[offset:][: tensor.nbytes]
            arrays.append(content.view(tensor.dtype).reshape(tensor.shape)[:count].copy())
        return RawDetections(*arrays)

    def free(self) -> None:
        """Free memory and CUDA graphs, which must not be in use."""
        self._forget_addresses()
        if self.frames is not None:
            self.frames.free()
        self._block.free()
        self.uploaded = self.done = None

    def _forget_addresses(self) -> None:
        self.steps.clear()
        while self.graphs:
            self.graphs.popitem()[1].free()
