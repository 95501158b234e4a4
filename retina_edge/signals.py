"""Ctrl-C and SIGTERM as a request to end in order; the second time is taken at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether Ctrl-C (SIGINT) or SIGTERM has been asked for.

    Args:
        on_ask: called when it is, in the main thread.

    Attributes:
        number: of the signal; None before there was one.
    """

    def __init__(self, on_ask: Callable[[], None] = lambda: None) -> None:
        self.number: int | None = None
        self._on_ask = on_ask

    @property
    def asked(self) -> bool:
        """Whether there was one."""
        return self.number is not None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.number = number
        self._on_ask()


@contextmanager
def stop_on_signal(on_ask: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Within it, the first signal only asks, so that what is under way is finished and can be saved."""
    request = StopRequest(on_ask)
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
