"""A sink that outlives its errors: a disk that is full for a while costs what came meanwhile, and nothing later."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from types import TracebackType

from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink

# Seconds from an error until the sink is tried again.
RETRY_SECONDS = 10.0

logger = logging.getLogger(__name__)


class RetryingSink(Sink):
    """Writes to a sink, and after an error of it, where it is resumable, to a new one; else nothing more is written.

    Results that come within the pause are counted in ``lost``, with the one that the error happened with; a file that
    could not be closed counts as one. An error is logged when results begin to be lost, and the end of that, too.

    Args:
        name: of what is written, for the log.
        make: the sink, not entered yet; a new one may not replace what the one before has written.

    Raises:
        Exception: of the sink, on entering, but for a full disk; later ones end in ``error``.
    """

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self._name, self._make = name, make
        self._sink, self._open = make(), False
        self._failing = False
        self._failed_at = 0.0
        self._lost = self._lost_before = 0
        self._error: BaseException | None = None

    @property
    def lost(self) -> int:
        return self._lost

    @property
    def failing(self) -> bool:
        return self._failing

    @property
    def error(self) -> BaseException | None:
        return self._error

    def takes(self, result: Result) -> bool:
        return self._sink.takes(result)

    def __enter__(self) -> Sink:
        try:
            self._enter()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._fail(error, self._next)  # in time there may be room
        return self

    def write(self, result: Result) -> None:
        if not self.takes(result):  # it would prove nothing
            return
        if self._failing and (not self._sink.resumable or time.monotonic() < self._failed_at + RETRY_SECONDS):
            self._lost += 1
            return
        try:
            if not self._open:
                self._enter()
            self._sink.write(result)
        except Exception as error:
            self._lost += 1
            self._fail(error, self._next)
            self._close(type(error), error, error.__traceback__)
            if self._sink.resumable:
                self._sink = self._make()
            # It would hold the frame for as long as it is shown.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        else:
            if self._failing:
                self._failing = False
                logger.warning("%s: written again; results lost: %d", self._name, self._lost - self._lost_before)
                self._lost_before = self._lost

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind, error, trace)

    @property
    def _next(self) -> str:
        return f"next attempt in {RETRY_SECONDS:g} s" if self._sink.resumable else "nothing more is written there"

    def _enter(self) -> None:
        self._sink.__enter__()
        self._open = True

    def _fail(self, error: Exception, what: str) -> None:
        if not self._failing:
            logger.error("%s: %s; %s", self._name, error, what)
        self._error, self._failed_at, self._failing = error, time.monotonic(), True

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        self._open = False
        try:
            self._sink.__exit__(kind, error, trace)
        except Exception as close_error:
            if not self._failing:  # else the first error is the one that counts
                self._lost += 1
                self._fail(close_error, "it is not whole")
        self.written = tuple(dict.fromkeys([*self.written, *self._sink.written]))
