"""The watchdog of a pipeline: it notices a component, such as the detector, that does not finish its work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engines.core.errors import RetinaEdgeError

# Two checks that are further apart than this, in seconds, show that the process itself was paused.
PAUSE_SECONDS = 2.0


class Watchdog:
    """Measures how long components are busy, without the time in which the whole process was paused.

    A container may be paused, and a laptop may sleep. The clock goes on, but a component cannot.

    Args:
        limit: seconds that a component may be busy; None for any time.
        limit_after_stop: seconds that it may be busy after ``stop``.
        clock: function that returns the time in seconds.

    Examples:
        >>> watchdog = Watchdog(limit=60.0, limit_after_stop=10.0)
        >>> with watchdog.busy("detector"):
        ...     watchdog.check()
    """

    def __init__(
        self, limit: float | None, limit_after_stop: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._limit_after_stop, self._clock = limit, limit_after_stop, clock
        self._busy: dict[object, tuple[str, float]] = {}
        self._paused, self._stopped_at = 0.0, math.inf
        self._checked = clock()

    @contextmanager
    def busy(self, name: str) -> Iterator[None]:
        """Mark a component as busy inside the block."""
        key = object()
        self._busy[key] = name, self._running_time()
        try:
            yield
        finally:
            del self._busy[key]

    def stop(self) -> None:
        """Note that components should finish. A second call does nothing."""
        self._stopped_at = min(self._stopped_at, self._running_time())

    @property
    def stopped(self) -> bool:
        """True after ``stop``."""
        return self._stopped_at < math.inf

    def start(self) -> None:
        """Note that checks begin now."""
        self._checked = self._clock()

    def check(self) -> None:
        """Check all components. Call this at least every second.

        Raises:
            RetinaEdgeError: if a component has been busy for too long.
        """
        previous, self._checked = self._checked, self._clock()
        if self._checked - previous > PAUSE_SECONDS:
            self._paused += self._checked - previous
        now = self._running_time()
        for name, since in list(self._busy.values()):
            if self._limit is not None and now - since > self._limit:
                raise RetinaEdgeError(f"{name} hangs: expected it to finish within {self._limit:g} s")
            if now - max(since, self._stopped_at) > self._limit_after_stop:
                raise RetinaEdgeError(
                    f"{name} hangs: expected it to finish within {self._limit_after_stop:g} s of the stop"
                )

    def _running_time(self) -> float:
        return self._clock() - self._paused
