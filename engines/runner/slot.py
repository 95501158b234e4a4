"""The objects of one submission in flight: a ticket for the caller and a slot for the executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from engines.core.executor import RawDetections, Ticket
from engines.core.frame_pool import FramePool
from engines.core.letterbox import Letterbox
from engines.plugins.launch import Tensor
from engines.runner.cuda_graph import CudaGraph
from engines.runner.frame_memory import FrameMemory
from engines.runner.packed_frames import UNIT
from engines.runner.packing import Packer
from engines.runner.shared_memory import SharedMemory

# Functions that enqueue a stage on the compute stream, by the name of the stage.
Steps: TypeAlias = dict[str, Callable[[], object]]


class EngineTicket(Ticket):
    """A ticket of ``GpuExecutor``, which holds the detections once they are fetched.

    Attributes:
        slot: slot of the submission; None once the detections are fetched or the executor is closed.
        detections: detections of the submission; None before they are fetched.
    """

    def __init__(self, letterboxes: Sequence[Letterbox], slot: Slot) -> None:
        super().__init__(letterboxes)
        self.slot: Slot | None = slot
        self.detections: RawDetections | None = None


class Slot:
    """Memory for the frames and the outputs of one submission, and the events that mark its progress.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        outputs: output tensors of the post-processing, for the largest batch.
        pool, packer: as for ``FrameMemory``.
        integrated: True if the GPU shares the memory of the host.

    Attributes:
        frames: memory for the frames.
        addresses: device address of each output tensor, by name.
        uploaded, done: events at the end of the upload and of the download. ``free`` sets them to None, because another
            thread may keep the slot alive after the GPU's context.
        steps, graphs: steps for each batch size, and CUDA graphs for each batch size, with the letterbox (False) or
            without (True: the frames are on the GPU). Both contain the addresses of this slot.
    """

    def __init__(
        self, driver: Any, outputs: Sequence[Tensor], pool: FramePool, packer: Packer, *, integrated: bool
    ) -> None:
        offsets: list[int] = []
        end = 0
        # One block, so that one copy downloads all outputs. Each output is aligned as TensorRT requires.
        for tensor in outputs:
            offsets.append(end)
            end += -(-tensor.nbytes // UNIT) * UNIT
        self.frames = FrameMemory(driver, pool, packer, integrated=integrated)
        self._block = SharedMemory(driver, end, integrated=integrated)
        self.addresses = {
            tensor.name: self._block.device + offset for tensor, offset in zip(outputs, offsets, strict=True)
        }
        self._outputs: list[npt.NDArray[Any]] = [
            self._block.host[offset:][: tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)
            for tensor, offset in zip(outputs, offsets, strict=True)
        ]
        self._views: dict[int, list[npt.NDArray[Any]]] = {}  # of the outputs of so many images
        # Created last: if an allocation failed later, the traceback would keep the events alive after the context.
        self.uploaded: Any = driver.Event()
        self.done: Any = driver.Event()
        self.steps: dict[int, Steps] = {}
        self.graphs: dict[tuple[int, bool], CudaGraph] = {}

    def reserve(self, nbytes: int) -> None:
        """Replace the memory for frames by a block of so many bytes."""
        self._forget_addresses()
        self.frames.reserve(nbytes)

    def download(self, stream: Any) -> None:
        """Enqueue the download of all outputs, in one copy."""
        self._block.to_host(stream)

    def detections(self, count: int) -> RawDetections:
        """Return copies of the outputs of the first ``count`` images. The event ``done`` must have been reached."""
        if (views := self._views.get(count)) is None:
            views = self._views[count] = [output[:count] for output in self._outputs]
        num_detections, boxes, scores, labels = views
        return RawDetections(num_detections.copy(), boxes.copy(), scores.copy(), labels.copy())

    def free(self) -> None:
        """Free memory and CUDA graphs, which must not be in use."""
        self._forget_addresses()
        self.frames.free()
        self._outputs.clear()
        self._views.clear()
        self._block.free()
        self.uploaded = self.done = None

    def _forget_addresses(self) -> None:
        self.steps.clear()
        while self.graphs:
            self.graphs.popitem()[1].free()
