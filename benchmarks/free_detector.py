"""An executor that takes no time, or a given time, to measure the pipeline around it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract, PyramidLevel
from engines.core.executor import NETWORK, RawDetections, Ticket
from engines.core.frame_pool import FramePool
from engines.core.frame_region import Frame, frame_size
from engines.core.letterbox import Letterbox

CONTRACT = DetectorContract(
    architecture="none",
    input_size=(416, 736),
    class_names=("thing",),
    category_ids=(1,),
    levels=(PyramidLevel((52, 92), (8, 8), (32.0,), (1.0,)),),
    max_detections=1,
)


class FreeExecutor:
    """An ``Executor`` that finds nothing. Like an engine, it does not letterbox frames on the CPU.

    Args:
        seconds: seconds that a batch takes.
        max_batch: largest batch, as for every executor; None for no limit.
    """

    contract = CONTRACT
    batch: int | None = None

    def __init__(self, *, seconds: float = 0.0, max_batch: int | None = None) -> None:
        self.seconds = seconds
        self.max_batch = max_batch
        self.pool = FramePool()

    def submit(self, frames: Sequence[Frame]) -> Ticket:
        return Ticket([Letterbox.fit(frame_size(frame), CONTRACT.input_size) for frame in frames])

    def upload(self, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return frame

    def result(self, ticket: Ticket) -> RawDetections:
        if self.seconds:  # because even sleep(0) yields the CPU
            time.sleep(self.seconds)
        count = len(ticket.letterboxes)
        return RawDetections(
            np.zeros(count, np.int32),
            np.zeros((count, 1, 4), np.float32),
            np.zeros((count, 1), np.float32),
            np.zeros((count, 1), np.int32),
        )

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Do nothing: no threshold changes the result."""

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        return {NETWORK: 1000 * self.seconds * bool(frames)}

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
