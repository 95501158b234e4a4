"""A wait for other threads and processes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(reached: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition is true, and fail if it is not true in time."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"the condition did not become true within {seconds:g} s"
        time.sleep(0.002)
