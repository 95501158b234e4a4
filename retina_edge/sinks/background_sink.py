"""A sink with its own thread, so that a slow or broken disk holds up neither capture nor the other sinks.

Results wait in a bounded queue. When it is full, the oldest result of a live stream is dropped and counted, while a
result of a file waits for room. Live streams and files each have the full capacity, so that neither starves the other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from engines.core.errors import SinkError
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink

# Seconds at the end for writing the queue.
CLOSE_SECONDS = 10.0
# Seconds after that for the write in progress and for closing the file.
GRACE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class BackgroundSink(Sink):
    """A sink that passes results to an inner sink in a background thread, in order.

    The inner sink is entered in the caller's thread, so that an error while opening is raised at once. It is written to
    and closed in the background thread. The first error of the inner sink closes it, and later results are counted in
    ``lost``. The next ``write`` or the end of the block raises this error, once. If ``on_error`` is given, the callback
    gets the error instead. If the block ends with another error, that error is raised and the sink's error is logged.

    At the end, the queue is written for at most ``close_seconds``. The results of live streams that remain are dropped.
    The results of files that remain are lost, which is an error.

    Args:
        sink: the inner sink, not entered yet, owned by this sink. It must not be a window, which needs the main thread.
        capacity: largest number of waiting results, for live streams and for files separately. Each result holds a
            frame and, if a sink draws, an annotated copy.
        on_error: callback for the first error of the inner sink, called once, usually from the background thread.
        close_seconds: seconds for writing the queue at the end.

    Raises:
        ValueError: if the capacity is below 1.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        capacity: int,
        on_error: Callable[[BaseException], None] | None = None,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"expected a capacity of at least 1, got {capacity}")
        self._sink = sink
        self._capacity = capacity
        self._on_error = on_error
        self._close_seconds = close_seconds
        # Results, and names of streams that have ended.
        self._queue: deque[Result | str] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # Arguments of __exit__; None before the end of the owner's block.
        self._end: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None = None
        self._finished = threading.Event()
        self._error: BaseException | None = None
        # True if the error was raised, logged or passed to on_error.
        self._reported = False
        self._dropped = 0
        self._lost = 0
        self._done = 0
        self._seconds = 0.0

    @property
    def pending(self) -> int:
        """Results that wait in the queue."""
        with self._changed:
            return self._waiting()

    @property
    def seconds(self) -> float:
        """Seconds that the inner sink has spent writing."""
        return self._seconds

    @property
    def dropped(self) -> int:
        """Results of live streams that made room for newer results, or still waited at the end."""
        return self._dropped

    @property
    def lost(self) -> int:
        """Results lost because of an error: the result that caused it, the waiting results, and all later ones.

        The number includes results of files that still waited at the end, and results that the inner sink has lost.
        """
        return self._lost + self._sink.lost

    @property
    def done(self) -> int:
        """Results that the inner sink has taken. The last ones may not be on the disk yet."""
        return self._done

    @property
    def error(self) -> BaseException | None:
        """The error that ended the inner sink, or the error that the inner sink reports; None if there was no error."""
        return self._error or self._sink.error

    @property
    def failing(self) -> bool:
        return self._error is not None or self._sink.failing

    def __enter__(self) -> Sink:
        self._sink.__enter__()
        self._thread = threading.Thread(target=self._run, name=f"sink {type(self._sink).__name__}", daemon=True)
        self._thread.start()
        return self

    def write(self, result: Result) -> None:
        """Queue one result.

        Raises:
            BaseException: the error of the inner sink, once, unless ``on_error`` got it.
        """
        with self._changed:
            if self._thread is None or self._end is not None:
                raise ValueError("a sink takes results only inside its with block")
            while not self._make_room(live=result.live) and self._error is None:
                self._changed.wait()
            if self._error is not None:
                self._lost += 1
                if not self._reported:
                    self._reported = True
                    raise self._error
                return
            self._queue.append(result)
            self._changed.notify_all()

    def end(self, stream: str) -> None:
        with self._changed:
            if self._error is None:
                self._queue.append(stream)
                self._changed.notify_all()

    def _waiting(self) -> int:
        return sum(isinstance(item, Result) for item in self._queue)

    def _make_room(self, *, live: bool) -> bool:
        """Return True if one more result may wait. For a live stream, drop the oldest waiting result if necessary."""
        same_kind = [item for item in self._queue if isinstance(item, Result) and item.live is live]
        if len(same_kind) < self._capacity:
            return True
        if live:
            self._queue.remove(same_kind[0])
            self._dropped += 1
        return live

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        with self._changed:
            self._end = (kind, error, trace)
            self._changed.notify_all()
        # Wait for an event, not by Thread.join: before Python 3.13, a join that Ctrl-C interrupts treats a running
        # thread as finished.
        if not self._finished.wait(self._close_seconds):
            self._give_up()
        if not self._finished.wait(GRACE_SECONDS):
            logger.warning("%s hangs and is left behind; its file may be incomplete", self._name)
            self._record(SinkError(f"{self._name} hangs: a write did not end in time; check the disk or the network"))
        else:
            self._thread.join()
        self.written = self._sink.written
        if self._error is not None and not self._reported:
            self._reported = True
            if kind is None:
                raise self._error
            logger.warning("%s: %s", self._name, self._error)

    @property
    def _name(self) -> str:
        return type(self._sink).__name__

    def _give_up(self) -> None:
        """Empty the queue after the timeout at the end. Lost results of files are an error."""
        with self._changed:
            lost = sum(isinstance(item, Result) and not item.live for item in self._queue)
            self._lost += lost
            self._dropped += self._waiting() - lost
            self._queue.clear()
        if lost:
            self._record(
                SinkError(
                    f"{self._name} is too slow: {lost} frames were not written within {self._close_seconds:g} s of the "
                    "end; write to a faster disk, or save fewer outputs"
                )
            )

    def _run(self) -> None:
        try:
            try:
                while (item := self._next()) is not None:
                    began = time.perf_counter()
                    if isinstance(item, Result):
                        lost = self._sink.lost
                        self._sink.write(item)
                        self._done += self._sink.lost == lost
                    else:
                        self._sink.end(item)
                    self._seconds += time.perf_counter() - began
            except BaseException as error:
                with self._changed:
                    self._lost += isinstance(item, Result) + self._waiting()
                    self._queue.clear()
                self._record(error)
            self._close()
        finally:
            self._finished.set()

    def _next(self) -> Result | str | None:
        """Wait for the next item of the queue: a result, or the name of an ended stream. Return None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._end is not None)
            self._changed.notify_all()
            return self._queue.popleft() if self._queue else None

    def _close(self) -> None:
        """Close the inner sink with its own error, or else with the error or the success of the owner's block."""
        error = self._error
        try:
            if error is not None:
                self._sink.__exit__(type(error), error, error.__traceback__)
            elif self._end is not None:
                self._sink.__exit__(*self._end)
        except BaseException as close_error:
            self._record(close_error)

    def _record(self, error: BaseException) -> None:
        """Keep the first error, and pass it to ``on_error``."""
        with self._changed:
            if self._error is not None:
                return
            self._error = error
            self._reported = self._on_error is not None
            self._changed.notify_all()
        if self._on_error is not None:
            self._on_error(error)
