"""A sink that retries after errors, so that a disk that is full for a while loses no later results."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from types import TracebackType

from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink

# Seconds from an error until the next attempt.
RETRY_SECONDS = 10.0

logger = logging.getLogger(__name__)


class RetryingSink(Sink):
    """A sink that writes to an inner sink, and after an error to a new one, unless the inner sink is not resumable.

    ``lost`` counts the result that caused an error and all results until the next attempt. A file that could not be
    closed counts as one result. The log says when results begin to be lost, and when the sink works again.

    Args:
        name: name of the output, for the log.
        make: callback that returns an inner sink, not entered yet. It must not overwrite what an earlier one wrote.

    Raises:
        Exception: on entering, any error of the inner sink except a full disk. Later errors are kept in ``error``.
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
            self._fail(error, self._next)  # space on the disk may be freed later
        return self

    def write(self, result: Result) -> None:
        # A result for which nothing is written cannot show that the disk works again.
        if not self.takes(result):
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
            # The traceback would keep the frame in memory for as long as the error is shown.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        else:
            if self._failing:
                self._failing = False
                logger.warning("%s: writing works again; results lost: %d", self._name, self._lost - self._lost_before)
                self._lost_before = self._lost

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind, error, trace)

    @property
    def _next(self) -> str:
        """The part of a log message that says what happens after an error."""
        return f"next attempt in {RETRY_SECONDS:g} s" if self._sink.resumable else "nothing more is written there"

    def _enter(self) -> None:
        self._sink.__enter__()
        self._open = True

    def _fail(self, error: Exception, consequence: str) -> None:
        if not self._failing:
            logger.error("%s: %s; %s", self._name, error, consequence)
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
            if not self._failing:  # otherwise keep the first error
                self._lost += 1
                self._fail(close_error, "the file is incomplete")
        self.written = tuple(dict.fromkeys([*self.written, *self._sink.written]))
