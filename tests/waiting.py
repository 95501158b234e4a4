"""A wait for other threads and processes, and the threads that a test starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def wait_for(reached: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition is true, and fail if it is not true in time."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"the condition did not become true within {seconds:g} s"
        time.sleep(0.002)


class NewThreads:
    """The threads that are started after this object is made; those of shared fixtures are older."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def names(self) -> list[str]:
        """Return the names of the new threads that are alive."""
        return [thread.name for thread in threading.enumerate() if thread not in self._before]
