"""TensorRT's progress during a build, and the way to stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from engines.tensorrt.api import TensorRT

if TYPE_CHECKING:
    import tensorrt

# The fraction of the build that is done, 0 to 1, and what TensorRT calls the present step.
Progress = Callable[[float, str], None]


class Cancellation:
    """Set when the user has asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def cancelled_by_interrupt() -> Iterator[Cancellation]:
    """While the block runs, Ctrl-C sets the flag instead of raising into TensorRT's C++; afterwards it raises.

    Raises:
        KeyboardInterrupt: at the end of the block, if it came meanwhile.
    """
    cancellation = Cancellation()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield cancellation
        return

    def request(_number: int, _frame: FrameType | None) -> None:
        cancellation.requested = True

    before = signal.signal(signal.SIGINT, request)
    try:
        yield cancellation
    finally:
        signal.signal(signal.SIGINT, before)
        if cancellation.requested:
            raise KeyboardInterrupt


def make_monitor(trt: TensorRT, progress: Progress, cancellation: Cancellation) -> tensorrt.IProgressMonitor:
    """An ``IProgressMonitor``; TensorRT nests phases, of which the outermost gives the fraction.

    Each phase counts its own steps; a step of an outer phase is as far along as the phases inside it.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, list[int]] = {}  # name: steps done, steps in all; outermost first
            self._furthest = 0.0

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            self._phases[name] = [0, max(1, steps)]

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._phases:
                self._phases[name][0] = step + 1
                self._tell(name)
            return not cancellation.requested

        def phase_finish(self, name: str) -> None:
            if name not in self._phases:
                return
            if not cancellation.requested:
                self._phases[name][0] = self._phases[name][1]
                self._tell(name)
            del self._phases[name]

        def _tell(self, name: str) -> None:
            fraction = 0.0
            for done, steps in reversed(self._phases.values()):
                fraction = min(1.0, (done + fraction) / steps)
            # Phases that start late would move the bar back.
            self._furthest = max(self._furthest, fraction)
            progress(self._furthest, name)

    return Monitor()
