"""Waiting for other threads and processes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(reached: Callable[[], object], seconds: float = 20.0) -> None:
    """Fails when a condition does not come true in time."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)
