"""Report the progress of a build, and let the user cancel it."""

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

# A callback for the fraction of the build that is done, 0 to 1, and TensorRT's name for the current step.
Progress = Callable[[float, str], None]


class Cancellation:
    """A flag that is set when the user interrupts the build.

    Attributes:
        requested: True after Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def cancelled_by_interrupt() -> Iterator[Cancellation]:
    """Let Ctrl-C set a flag during the block, because an exception must not pass through TensorRT's C++ code.

    Yields:
        The flag. It is never set if the block runs in a thread other than the main thread.

    Raises:
        KeyboardInterrupt: at the end of the block, if Ctrl-C was pressed in the meantime.
    """
    cancellation = Cancellation()
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
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
    """Return an ``IProgressMonitor`` that reports the progress of the whole build and can cancel it.

    TensorRT nests phases, and each phase counts its own steps. The reported fraction is that of the outermost phase, in
    which the progress of an inner phase counts as part of one step.

    Args:
        trt: module ``tensorrt`` or ``tensorrt_rtx``.
        progress: callback for the fraction and the step.
        cancellation: flag that cancels the build.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, list[int]] = {}  # name: [steps done, number of steps], outermost first
            self._furthest = 0.0

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            self._phases[name] = [0, max(1, steps)]

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._phases:
                self._phases[name][0] = step + 1
                self._report(name)
            return not cancellation.requested

        def phase_finish(self, name: str) -> None:
            if name not in self._phases:
                return
            if not cancellation.requested:
                self._phases[name][0] = self._phases[name][1]
                self._report(name)
            del self._phases[name]

        def _report(self, name: str) -> None:
            fraction = 0.0
            for done, steps in reversed(self._phases.values()):
                fraction = min(1.0, (done + fraction) / steps)
            # Never report less than before, because a phase that starts late would move the progress bar back.
            self._furthest = max(self._furthest, fraction)
            progress(self._furthest, name)

    return Monitor()
