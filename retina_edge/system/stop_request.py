"""Ctrl-C and SIGTERM as a request to end in order; a second signal ends at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Set by SIGINT (Ctrl-C) or SIGTERM.

    Args:
        on_request: called in the main thread when the first signal arrives.

    Attributes:
        number: number of the signal; None before there was one.
    """

    def __init__(self, on_request: Callable[[], None] = lambda: None) -> None:
        self.number: int | None = None
        self._on_request = on_request

    @property
    def requested(self) -> bool:
        """True once a signal has arrived."""
        return self.number is not None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.number = number
        self._on_request()


@contextmanager
def stop_on_signal(on_request: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Handle signals inside the block: the first one only requests the stop, so that work can finish and be saved."""
    request = StopRequest(on_request)
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
