"""Ctrl-C and SIGTERM as a request for an orderly end; a second signal ends the program at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit code that a shell reports for a process ended by SIGINT: 128 + 2


class StopRequest:
    """A signal handler that records SIGINT (Ctrl-C) or SIGTERM; a second signal raises KeyboardInterrupt.

    Args:
        on_request: called in the main thread when the first signal arrives.

    Attributes:
        number: number of the first signal; None until it arrives.
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
    """Handle SIGINT and SIGTERM inside the block. The first signal only requests a stop, so that work can be finished.

    Examples:
        >>> with stop_on_signal(lambda: print("finishing")) as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     print(stop.requested)
        finishing
        True
    """
    request = StopRequest(on_request)
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
