"""What every executor of a detector has in common, whatever runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract
from engines.core.letterbox import Letterbox, letterbox_batch

# Stages of ``Executor.measure``: a copy into pinned memory, up, letterbox, network, decode and NMS, back. An ONNX, and
# an engine with plugins, have decode and NMS inside.
PACK, H2D, PREPROCESS, NETWORK, POSTPROCESS, D2H = "pack", "H2D", "preprocess", "engine", "postprocess", "D2H"
STAGES = (PACK, H2D, PREPROCESS, NETWORK, POSTPROCESS, D2H)
# All of them on the GPU, at one go.
GPU = "GPU"


class RawDetections(NamedTuple):
    """What every executor returns for a batch of N; rows past ``num_detections`` are zero.

    Attributes:
        num_detections: int32 [N].
        boxes: float32 [N, K, 4], xyxy, input pixels.
        scores: float32 [N, K], descending.
        labels: int32 [N, K].
    """

    num_detections: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]


class Ticket:
    """Frames on their way through an executor.

    Attributes:
        letterboxes: where each frame lies in the network's input.
    """

    def __init__(self, letterboxes: Sequence[Letterbox]) -> None:
        self.letterboxes = tuple(letterboxes)


class Executor(Protocol):
    """Letterboxes frames and runs the network with its post-processing on them.

    In two steps, so that one thread can prepare frames while another waits for detections.

    Attributes:
        contract: what the artifact promises.
        batch: the one batch size it runs, or None where there are several; a submission may be of fewer frames.
        max_batch: frames a submission may have, or None for any number.
    """

    @property
    def contract(self) -> DetectorContract: ...

    @property
    def batch(self) -> int | None: ...

    @property
    def max_batch(self) -> int | None: ...

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Ticket:
        """Takes frames as ``as_bgr`` does, of any sizes, at most ``max_batch`` of them; they may change afterwards.

        Raises:
            ValueError: one of them is no frame.
        """
        ...

    def result(self, ticket: Ticket) -> RawDetections:
        """Detections of what was submitted, in input pixels; the arrays belong to the caller."""
        ...

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Changes what is kept, from the next submission on; None leaves one as it is.

        Raises:
            ValueError: out of range, or thresholds that are built into the model.
        """
        ...

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        """Milliseconds of each of ``STAGES`` that this executor has, and of ``GPU``, for one submission.

        Raises:
            ValueError: as ``submit``.
        """
        ...

    def close(self) -> None:
        """Frees what the executor holds; it cannot be used afterwards."""
        ...


class HostTicket(Ticket):
    """Letterboxed frames that wait for the network: ``images`` uint8 [N, height, width, 3]."""

    def __init__(self, letterboxes: Sequence[Letterbox], images: npt.NDArray[np.uint8]) -> None:
        super().__init__(letterboxes)
        self.images = images


class HostExecutor(ABC):
    """An ``Executor`` that takes letterboxed images in host memory: ``submit`` letterboxes, ``result`` infers."""

    contract: DetectorContract
    batch: int | None

    @property
    def max_batch(self) -> int | None:
        return self.batch

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]]) -> HostTicket:
        images, letterboxes = letterbox_batch(frames, self.contract.input_size, batch=self.batch)
        return HostTicket(letterboxes, images)

    def result(self, ticket: Ticket) -> RawDetections:
        if not isinstance(ticket, HostTicket):
            raise ValueError(f"ticket: expected one of this executor's submit, got {ticket!r}")
        return self.infer(ticket.images)

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        asked = f"score {score_threshold}, IoU {iou_threshold}"
        raise ValueError(f"thresholds: they are built into this model, got {asked}; export it again with others")

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        start = perf_counter()
        ticket = self.submit(frames)
        submitted = perf_counter()
        self.result(ticket)
        return {PREPROCESS: 1000 * (submitted - start), NETWORK: 1000 * (perf_counter() - submitted)}

    @abstractmethod
    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        """Detections of ``images``: uint8 [N, height, width, 3], BGR, letterboxed to the contract's input.

        The arrays returned belong to the caller.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what the executor holds; it cannot be used afterwards."""
