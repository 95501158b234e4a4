"""An executor without a network, which finds white patches, so that tests know the expected detections."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract, PyramidLevel
from engines.core.executor import HostExecutor, RawDetections
from retina_edge.detector import Detector

WHITE = 200


def contract(
    *,
    input_size: tuple[int, int] = (64, 96),
    score_threshold: float = 0.05,
    classes: tuple[str, ...] = ("patch", "other"),
) -> DetectorContract:
    """Return a small contract; category ids start at 7."""
    return DetectorContract(
        architecture="stand-in",
        input_size=input_size,
        class_names=classes,
        category_ids=tuple(range(7, 7 + len(classes))),
        levels=(PyramidLevel((8, 12), (8, 8), (32.0,), (1.0,)),),
        score_threshold=score_threshold,
        max_detections=4,
    )


class StandIn(HostExecutor):
    """An ``Executor`` that finds one box of label 0 around the white pixels of each image, if there are any.

    Args:
        contract: contract of the executor.
        batch: fixed batch size; None for any.
        score: score of the boxes.
        fail_at: number of the call, from 0, that raises ``error``.
        error: the error to raise.
    """

    def __init__(
        self,
        contract: DetectorContract,
        *,
        batch: int | None = None,
        score: float = 0.9,
        fail_at: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.contract = contract
        self.batch = batch
        self.calls: list[tuple[int, ...]] = []
        self.closed = False
        self._score = score
        self._fail_at = fail_at
        self._error = error

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        if len(self.calls) == self._fail_at and self._error is not None:
            raise self._error
        self.calls.append(images.shape)
        count, k = len(images), self.contract.max_detections
        raw = RawDetections(
            np.zeros(count, np.int32),
            np.zeros((count, k, 4), np.float32),
            np.zeros((count, k), np.float32),
            np.zeros((count, k), np.int32),
        )
        for n, image in enumerate(images):
            rows, columns = np.nonzero(image.min(axis=2) >= WHITE)
            if len(rows):
                raw.num_detections[n] = 1
                raw.boxes[n, 0] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                raw.scores[n, 0] = self._score
        return raw

    def close(self) -> None:
        self.closed = True


class OpenBatch(StandIn):
    """A stand-in for an engine that takes 1 to ``largest`` images and is tuned for ``tuned`` of them."""

    def __init__(self, *, largest: int, tuned: int) -> None:
        super().__init__(contract())
        self._largest, self.tuned_batch = largest, tuned

    @property
    def max_batch(self) -> int:
        return self._largest


def detector(**options: object) -> Detector:
    """Return a detector with a new stand-in and its default contract."""
    return Detector(StandIn(contract(), **options))  # type: ignore[arg-type]


def patch_frame(size: tuple[int, int], corner: tuple[int, int], side: int = 16) -> npt.NDArray[np.uint8]:
    """Return a black frame of (height, width) with a white square at ``corner`` (x, y), pixels."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = 255
    return frame
