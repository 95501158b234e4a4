"""The progress of a run, which decides its learning rate and its end: by steps, or by time."""

from __future__ import annotations

import time
from collections.abc import Callable

# Largest share of the time that evaluations take, apart from the last one.
MAX_EVALUATION_SHARE = 0.2


class TimeBudget:
    """The time of a run that ends when its time has passed, however fast the machine is.

    Args:
        seconds: time of the run; 0 for a run that ends after a number of steps.
        spent: seconds that have passed before.
        evaluating: seconds of these that evaluations took.
        clock: function that returns the time in seconds.

    Attributes:
        evaluating: seconds that evaluations have taken.
        last_evaluation: seconds that are reserved for the evaluations at the end.

    Examples:
        >>> now = iter([100.0, 130.0])
        >>> budget = TimeBudget(60.0, spent=0.0, clock=lambda: next(now))
        >>> budget.start()
        >>> budget.progress()
        0.5
    """

    def __init__(
        self,
        seconds: float,
        *,
        spent: float = 0.0,
        evaluating: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._spent, self._clock = seconds, spent, clock
        self._started: float | None = None
        self.evaluating = evaluating
        self.last_evaluation = 0.0

    def __bool__(self) -> bool:
        """True if the run ends by its time."""
        return self._seconds > 0

    @property
    def spent(self) -> float:
        """The seconds that have passed."""
        return self._spent + (0.0 if self._started is None else self._clock() - self._started)

    @property
    def left(self) -> float | None:
        """The seconds that are left; None for a run that ends after a number of steps."""
        return max(0.0, self._seconds - self.spent) if self else None

    def start(self) -> None:
        """Start the clock."""
        self._started = self._clock()

    def progress(self) -> float:
        """Return the share of the time for training that has passed, 0 to 1."""
        return min(1.0, self.spent / max(1e-9, self._seconds - self.last_evaluation))

    def evaluated(self, seconds: float, *, reserved: int = 1) -> None:
        """Record the duration of an evaluation, and reserve the time of ``reserved`` evaluations for the end."""
        self.evaluating += seconds
        self.last_evaluation = reserved * seconds

    def has_time_to_evaluate(self) -> bool:
        """True if evaluations have not taken too much of the time so far."""
        return self.evaluating <= MAX_EVALUATION_SHARE * self.spent
