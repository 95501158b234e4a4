"""The choice of the number of frames in a batch."""

from __future__ import annotations

import logging

from engines.core.errors import RetinaEdgeError
from engines.core.executor import Executor

log = logging.getLogger(__name__)


def choose_batch(executor: Executor, requested: int | None, *, frames: int = 1) -> int:
    """Return the number of frames in a batch: the requested number, else the executor's own, else those there are.

    A warning says if an engine is tuned for another number than the requested one.

    Args:
        executor: executor that runs the batches.
        requested: number of frames; None to choose it.
        frames: number of frames that are there at once, such as the number of streams. It is chosen if the executor
            takes so many, else the largest number that the executor is known to take.

    Raises:
        RetinaEdgeError: if the executor cannot take the requested number.

    Examples:
        >>> from retina_edge import Detector
        >>> from retina_edge.assets import MODEL
        >>> with Detector.load(MODEL) as detector:
        ...     choose_batch(detector.executor, None)
        1
    """
    fixed, largest = executor.batch, executor.max_batch
    if requested is not None and (
        requested < 1 or fixed not in (None, requested) or (largest or requested) < requested
    ):
        expected = fixed or (f"1 to {largest}" if largest else "at least 1")
        raise RetinaEdgeError(
            f"batch: expected {expected}, got {requested}; choose such a batch, or export the model with another"
        )
    tuned = getattr(executor, "tuned_batch", None)
    if requested is not None and tuned not in (None, requested):
        log.warning(
            "batch: the engine is tuned for %d, but runs %d, which may be slower; choose a batch of %d, or build the "
            "engine with --batch %d",
            *(tuned, requested, tuned, requested),
        )
    return requested or fixed or min(frames, largest or 1)
