"""Frames in, detections out: the same for a checkpoint, an ONNX model and an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from engines.errors import DeviceError, ModelFileError, RetinaEdgeError
from engines.executor import Executor, Ticket
from engines.letterbox import Letterbox
from engines.plugins.reference import RawDetections
from retina_edge.detections import Detections

Frame = npt.NDArray[np.uint8]


T = TypeVar("T")


@dataclass(frozen=True)
class Submitted(Generic[T]):
    """Frames on their way; ``Detector.result`` takes it.

    Attributes:
        parts: of the executor, a batch each.
        shape: what the caller gets of a list of detections.
    """

    parts: Sequence[Ticket]
    shape: Callable[[list[Detections]], T]


class Detector:
    """Letterboxes frames, runs an executor, and gives boxes in frame pixels.

    Example:
        >>> from retina_edge import Detector
        >>> with Detector.load("model.onnx") as detector:
        ...     detections = detector(frame)
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.contract = executor.contract

    @classmethod
    def load(cls, path: Path | str, *, device: str = "auto", in_flight: int = 2, cuda_graph: bool = True) -> Detector:
        """Opens a model file by its kind: ``.pt`` (torch), ``.onnx`` (ONNX Runtime) or ``.engine`` (TensorRT).

        Args:
            path: the model file.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; an ``.onnx`` always runs on the CPU.
            in_flight: submissions that an engine has on their way at a time.
            cuda_graph: an engine's work is launched as one CUDA graph where that can be had.

        Raises:
            ModelFileError: missing, corrupt, foreign, or of another kind.
            MissingDependencyError: a checkpoint without torch installed, an engine without TensorRT or pycuda.
            DeviceError: an engine without the GPU or the TensorRT it was built for.
        """
        path = Path(path)
        if path.suffix == ".onnx":
            from engines.onnx_runtime import OnnxExecutor

            return cls(OnnxExecutor(path))
        if path.suffix == ".pt":
            from retina_edge.torch_executor import TorchExecutor

            return cls(TorchExecutor.load(path, device=device))
        if path.suffix == ".engine":
            from engines.runner.engine import EngineExecutor

            number = _gpu_number(path, device)
            return cls(EngineExecutor(path, in_flight=in_flight, device=number, cuda_graph=cuda_graph))
        raise ModelFileError(
            f"{path}: expected a model ending in .pt, .onnx or .engine, got {path.suffix or 'no ending'!r}"
        )

    @overload
    def __call__(self, frames: Frame) -> Detections: ...

    @overload
    def __call__(self, frames: Sequence[Frame]) -> list[Detections]: ...

    def __call__(self, frames: Frame | Sequence[Frame]) -> Detections | list[Detections]:
        """Detects in one frame, or in a list of frames of any sizes.

        Args:
            frames: uint8 [height, width, 3] BGR as OpenCV gives it (greyscale and BGRA are converted), or a
                list of such. A list is one batch, or as many as an executor of a fixed or largest batch size needs.

        Returns:
            Detections for a frame; a list of them, in order, for a list.

        Raises:
            ValueError: not such a frame.
        """
        if isinstance(frames, np.ndarray):
            return self.result(self.submit(frames))
        return self.result(self.submit(frames))

    @overload
    def submit(self, frames: Frame) -> Submitted[Detections]: ...

    @overload
    def submit(self, frames: Sequence[Frame]) -> Submitted[list[Detections]]: ...

    def submit(self, frames: Frame | Sequence[Frame]) -> Submitted[Detections] | Submitted[list[Detections]]:
        """Sends frames on their way, and gives a ticket for their detections; frames may change afterwards.

        An engine detects meanwhile; other executors only letterbox here, and infer in ``result``.

        Args:
            frames: as above.

        Raises:
            ValueError: not such a frame.
        """
        if isinstance(frames, np.ndarray):
            return Submitted(self._submit([frames]), lambda found: found[0])
        return Submitted(self._submit(frames), lambda found: found)

    def result(self, ticket: Submitted[T]) -> T:
        """What ``submit``'s frames show: Detections for a frame, a list of them for a list."""
        found: list[Detections] = []
        for part in ticket.parts:
            found += self._to_detections(self.executor.result(part), part.letterboxes)
        return ticket.shape(found)

    def _submit(self, frames: Sequence[Frame]) -> list[Ticket]:
        step = self.executor.max_batch or max(1, len(frames))
        return [self.executor.submit(frames[start : start + step]) for start in range(0, len(frames), step)]

    def _to_detections(self, raw: RawDetections, letterboxes: Sequence[Letterbox]) -> list[Detections]:
        results = []
        for n, letterbox in enumerate(letterboxes):
            count = int(raw.num_detections[n])
            results.append(
                Detections(
                    letterbox.to_frame(raw.boxes[n, :count]),
                    raw.scores[n, :count].copy(),
                    raw.labels[n, :count].copy(),
                    self.contract.class_names,
                    self.contract.category_ids,
                )
            )
        return results

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Changes what is kept, from the next frames on; None leaves one as it is.

        For checkpoints, and engines whose decode and NMS run behind the network (``--postprocess kernels``).

        Raises:
            ValueError: out of range, or thresholds that are built into the model.
        """
        self.executor.set_thresholds(score_threshold=score_threshold, iou_threshold=iou_threshold)

    def check_batch(self, asked: int | None) -> int:
        """Frames an inference: what was asked for, or else the model's own batch, or 1.

        Raises:
            RetinaEdgeError: the model cannot take so many.
        """
        fixed, largest = self.executor.batch, self.executor.max_batch
        if asked is not None and (asked < 1 or fixed not in (None, asked) or (largest or asked) < asked):
            expected = fixed or (f"1 to {largest}" if largest else "at least 1")
            raise RetinaEdgeError(f"batch: expected {expected}, got {asked}; the model's batch is set at its export")
        return asked or fixed or 1

    def close(self) -> None:
        """Frees the executor."""
        self.executor.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _gpu_number(path: Path, device: str) -> int:
    """Of ``auto``, ``cuda`` or ``cuda:N``."""
    kind, colon, number = device.partition(":")
    if device in ("auto", "cuda"):
        return 0
    if kind == "cuda" and colon and number.isdecimal():
        return int(number)
    raise DeviceError(f"{path}: expected device auto, cuda or cuda:N for an engine, got {device!r}")
