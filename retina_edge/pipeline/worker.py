"""A thread whose error is told, and whose end can be waited for through Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Runs ``body`` in a thread of its own; what it raises goes to ``on_failure``, in that thread, before it ends.

    The end is told by an event: ``Thread.join`` that Ctrl-C interrupts takes a running thread for ended before
    Python 3.13.
    """

    def __init__(self, name: str, body: Callable[[], None], on_failure: Callable[[BaseException], None]) -> None:
        self._body = body
        self._on_failure = on_failure
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.ident is not None and not self._finished.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the body has ended, at once when it was never started; waits so long at most, None for ever."""
        if self._thread.ident is None:
            return True
        ended = self._finished.wait(seconds)
        if ended:
            self._thread.join()
        return ended

    def _run(self) -> None:
        try:
            self._body()
        except BaseException as error:
            self._on_failure(error)
        finally:
            self._finished.set()
