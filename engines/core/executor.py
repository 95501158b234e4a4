"""The interface that all executors share, and the base class of executors that run in host memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract
from engines.core.frame_pool import FramePool
from engines.core.frame_region import Frame, FrameRegion, gpu_frame_of
from engines.core.gpu_frame import Pixels
from engines.core.letterbox import Letterbox, letterbox_batch

# Stages of ``Executor.measure``: pack (copy into pinned memory), upload, letterbox, network, post-processing, download.
# In an ONNX, and in an engine with plugins, the post-processing is part of the network.
PACK, H2D, PREPROCESS, NETWORK, POSTPROCESS, D2H = "pack", "H2D", "preprocess", "engine", "postprocess", "D2H"
STAGES = (PACK, H2D, PREPROCESS, NETWORK, POSTPROCESS, D2H)
# All stages on the GPU together, as ``submit`` runs them.
GPU = "GPU"


class RawDetections(NamedTuple):
    """The detections of a batch of N inputs, with K rows for each input. Rows past ``num_detections`` are zero.

    Attributes:
        num_detections: number of detections of each input, int32 [N].
        boxes: boxes, float32 [N, K, 4], xyxy, input pixels.
        scores: scores, float32 [N, K], descending.
        labels: labels, int32 [N, K].

    Examples:
        >>> boxes = np.array([[[8, 8, 40, 40], [0, 0, 0, 0]]], np.float32)
        >>> raw = RawDetections(np.array([1], np.int32), boxes, np.zeros((1, 2)), np.zeros((1, 2), np.int32))
        >>> raw.boxes[0, : raw.num_detections[0]].tolist()
        [[8.0, 8.0, 40.0, 40.0]]
    """

    num_detections: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]


class Ticket:
    """A submission in flight; ``Executor.result`` takes it.

    Attributes:
        letterboxes: position of each frame in the network's input.
    """

    def __init__(self, letterboxes: Sequence[Letterbox]) -> None:
        self.letterboxes = tuple(letterboxes)


class Executor(Protocol):
    """An object that letterboxes frames, runs the network on them and post-processes its outputs.

    The work has two steps, ``submit`` and ``result``, so that one thread can prepare frames while another thread waits
    for detections.

    Attributes:
        contract: contract of the model.
        batch: the only batch size that the model runs, or None if it runs several. A submission may have fewer frames.
        max_batch: largest number of frames in a submission, or None for any number.
        pool: frames for decoders to fill, which the executor reads from where they lie.
    """

    @property
    def contract(self) -> DetectorContract: ...

    @property
    def batch(self) -> int | None: ...

    @property
    def max_batch(self) -> int | None: ...

    @property
    def pool(self) -> FramePool: ...

    def submit(self, frames: Sequence[Frame]) -> Ticket:
        """Submit frames and return a ticket for ``result``.

        Frames of ``pool`` must not be modified until ``result`` has returned. Others in host memory may be modified at
        once.

        Args:
            frames: at most ``max_batch`` frames of any sizes, each of a kind that ``as_bgr`` takes, or a region of one.
                The runner of an engine also takes frames on the GPU.

        Raises:
            ValueError: if an array is not a frame, there are more than ``max_batch``, or a frame is on a GPU that this
                executor does not read.
        """
        ...

    def upload(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | Pixels:
        """Bring a frame to where the letterbox reads it, for a ``FrameRegion`` in each of several submissions.

        Args:
            frame: frame of a kind that ``as_bgr`` takes.

        Returns:
            The frame itself, or where it is on the GPU. An array must not be modified before the last submission.

        Raises:
            ValueError: if the array is not a frame.
        """
        ...

    def result(self, ticket: Ticket) -> RawDetections:
        """Wait for a submission and return its detections in input pixels. The arrays belong to the caller."""
        ...

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Change the thresholds from the next submission on; None leaves a threshold as it is.

        Raises:
            ValueError: if a threshold is out of range, or the thresholds are built into the model.
        """
        ...

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        """Return the milliseconds of each stage for one submission.

        The keys are the members of ``STAGES`` that this executor has. The CUDA runner adds ``GPU``.

        Raises:
            ValueError: if an array is not a frame.
        """
        ...

    def close(self) -> None:
        """Release the executor's resources. The executor cannot be used afterwards."""
        ...


class HostTicket(Ticket):
    """A submission that waits for the network in host memory.

    Attributes:
        images: letterboxed frames, uint8 [N, height, width, 3], BGR.
    """

    def __init__(self, letterboxes: Sequence[Letterbox], images: npt.NDArray[np.uint8]) -> None:
        super().__init__(letterboxes)
        self.images = images


class HostExecutor(ABC):
    """An ``Executor`` in host memory: ``submit`` letterboxes the frames, and ``result`` runs the network.

    Attributes:
        library: name of the library that runs the network, for errors.
    """

    contract: DetectorContract
    batch: int | None
    library = "this model"

    @property
    def max_batch(self) -> int | None:
        """Largest number of frames in a submission, or None for any number."""
        return self.batch

    @cached_property
    def pool(self) -> FramePool:
        """Frames for decoders to fill."""
        return FramePool()

    def submit(self, frames: Sequence[Frame]) -> HostTicket:
        """Letterbox frames and return a ticket for ``result``; see ``Executor.submit``."""
        arrays = [self._in_host_memory(frame) for frame in frames]
        images, letterboxes = letterbox_batch(arrays, self.contract.input_size, batch=self.batch)
        return HostTicket(letterboxes, images)

    def upload(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the frame itself: the letterbox reads it in host memory; see ``Executor.upload``."""
        return frame

    def result(self, ticket: Ticket) -> RawDetections:
        """Run the network on a submission and return its detections; see ``Executor.result``.

        Raises:
            ValueError: if the ticket does not come from ``submit``.
        """
        if not isinstance(ticket, HostTicket):
            raise ValueError(f"ticket: expected one from this executor's submit, got {ticket!r}")
        return self.infer(ticket.images)

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Refuse new thresholds, because this model has its thresholds built in; None leaves a threshold as it is.

        Raises:
            ValueError: if a threshold is given.
        """
        if score_threshold is None and iou_threshold is None:
            return
        raise ValueError(
            "thresholds: expected no change, because they are built into this model, got "
            f"score {score_threshold}, IoU {iou_threshold}; export it again with other thresholds"
        )

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        """Return the milliseconds of letterbox and network for one submission; see ``Executor.measure``."""
        start = perf_counter()
        ticket = self.submit(frames)
        submitted = perf_counter()
        self.result(ticket)
        return {PREPROCESS: 1000 * (submitted - start), NETWORK: 1000 * (perf_counter() - submitted)}

    def _in_host_memory(self, frame: Frame) -> npt.NDArray[np.uint8]:
        if (on_gpu := gpu_frame_of(frame)) is not None:
            raise ValueError(
                f"frames: expected frames in host memory, because {self.library} gets its images from the CPU, got "
                f"{on_gpu}; run an engine (retina-edge build), or pass a copy in host memory, in BGR: for torch "
                "tensor.cpu().numpy()"
            )
        return frame.crop() if isinstance(frame, FrameRegion) else frame  # type: ignore[return-value]

    @abstractmethod
    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        """Run the network and return its detections. The arrays belong to the caller.

        Args:
            images: uint8 [N, height, width, 3], BGR, letterboxed to the contract's input size.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the executor's resources. The executor cannot be used afterwards."""
