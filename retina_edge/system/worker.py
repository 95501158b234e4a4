"""A thread that reports its error and its end, reliably even after Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable

_local = threading.local()


def in_worker() -> bool:
    """Return True in the thread of a worker, which must not wait for other workers: they may wait for it.

    Examples:
        >>> in_worker()
        False
    """
    return getattr(_local, "in_worker", False)


class Worker:
    """A thread that runs a function.

    An event signals the end, because ``Thread.join`` is not reliable before Python 3.13: if Ctrl-C interrupts it, it
    treats a running thread as finished.

    Args:
        name: name of the thread.
        body: function to run.
        on_failure: called in the thread with any exception that ``body`` raises, before the thread ends.

    Examples:
        >>> results = []
        >>> worker = Worker("example", lambda: results.append("done"), on_failure=print)
        >>> worker.start()
        >>> worker.wait(), results
        (True, ['done'])
    """

    def __init__(self, name: str, body: Callable[[], None], on_failure: Callable[[BaseException], None]) -> None:
        self._body = body
        self._on_failure = on_failure
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """True if the thread was started and has not ended."""
        return self._thread.ident is not None and not self._finished.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the thread and return True if it has ended, or was never started.

        Args:
            seconds: timeout; None waits without limit.
        """
        if self._thread.ident is None:
            return True
        ended = self._finished.wait(seconds)
        if ended:
            self._thread.join()
        return ended

    def _run(self) -> None:
        _local.in_worker = True
        try:
            self._body()
        except BaseException as error:
            self._on_failure(error)
        finally:
            self._finished.set()
