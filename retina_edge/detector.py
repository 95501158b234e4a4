"""Frames in, detections out: the same for a checkpoint, an ONNX model and an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt

from engines.errors import ModelFileError
from engines.executor import Executor
from engines.letterbox import Letterbox, letterbox_batch
from engines.plugins.reference import RawDetections
from retina_edge.detections import Detections

Frame = npt.NDArray[np.uint8]


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
    def load(cls, path: Path | str, *, device: str = "auto") -> Detector:
        """Opens a model file by its kind: ``.pt`` (torch) or ``.onnx`` (ONNX Runtime).

        Args:
            path: the model file.
            device: of torch, for ``.pt``: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            ModelFileError: missing, corrupt, foreign, or of another kind.
            MissingDependencyError: a checkpoint without torch installed.
        """
        path = Path(path)
        if path.suffix == ".onnx":
            from engines.onnx_runtime import OnnxExecutor

            return cls(OnnxExecutor(path))
        if path.suffix == ".pt":
            from retina_edge.torch_executor import TorchExecutor

            return cls(TorchExecutor.load(path, device=device))
        raise ModelFileError(f"{path}: expected a model ending in .pt or .onnx, got {path.suffix or 'no ending'!r}")

    @overload
    def __call__(self, frames: Frame) -> Detections: ...

    @overload
    def __call__(self, frames: Sequence[Frame]) -> list[Detections]: ...

    def __call__(self, frames: Frame | Sequence[Frame]) -> Detections | list[Detections]:
        """Detects in one frame, or in a list of frames of any sizes.

        Args:
            frames: uint8 [height, width, 3] BGR as OpenCV gives it (greyscale and BGRA are converted), or a
                list of such. A list is one batch, or as many as an executor of a fixed batch size needs.

        Returns:
            Detections for a frame; a list of them, in order, for a list.

        Raises:
            ValueError: not such a frame.
        """
        if isinstance(frames, np.ndarray):
            return self._detect([frames])[0]
        return self._detect(frames)

    def _detect(self, frames: Sequence[Frame]) -> list[Detections]:
        results: list[Detections] = []
        step = self.executor.batch or max(1, len(frames))
        for start in range(0, len(frames), step):
            images, letterboxes = self.preprocess(frames[start : start + step])
            results += self.to_detections(self.executor.infer(images), letterboxes)
        return results

    def preprocess(self, frames: Sequence[Frame]) -> tuple[npt.NDArray[np.uint8], list[Letterbox]]:
        """Frames as the executor takes them: uint8 [N, height, width, 3], and where each lies in it.

        N is the executor's fixed batch size where it has one: missing frames are zero.
        """
        return letterbox_batch(frames, self.contract.input_size, batch=self.executor.batch)

    def to_detections(self, raw: RawDetections, letterboxes: Sequence[Letterbox]) -> list[Detections]:
        """One ``Detections`` for each letterbox, from the first rows of the executor's arrays."""
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

    def close(self) -> None:
        """Frees the executor."""
        self.executor.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
