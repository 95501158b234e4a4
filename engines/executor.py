"""What every executor of a detector has in common, whatever runs it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines.contract import DetectorContract
from engines.plugins.reference import RawDetections


class Executor(Protocol):
    """Runs the network with its post-processing on letterboxed images.

    Attributes:
        contract: what the artifact promises.
        batch: the one batch size it takes, or None where any is taken.
    """

    @property
    def contract(self) -> DetectorContract: ...

    @property
    def batch(self) -> int | None: ...

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        """Detections of ``images``: uint8 [N, height, width, 3], BGR, letterboxed to the contract's input.

        The arrays returned belong to the caller.
        """
        ...

    def close(self) -> None:
        """Frees what the executor holds; it cannot be used afterwards."""
        ...
