"""A sink in a thread of its own, so that a slow disk or a broken one holds up neither capture nor the other sinks.

A bounded queue lies before it. Of live streams the oldest result makes room when it is full, and is counted; of files
a result waits for room, and none is dropped. Each has a queue's length of its own, so that neither starves the other.
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

# At the end, for what is queued.
CLOSE_SECONDS = 10.0
# Then, for the write in progress and for closing the file.
GRACE_SECONDS = 5.0

logger = logging.getLogger(__name__)


class BackgroundSink(Sink):
    """Hands results to another sink from a thread of its own; same order, same ``with`` block.

    The other sink is entered in the caller's thread, so that what cannot be opened is said at once; it is written to
    and closed in the other. Its first error ends it alone: it is closed with that error, and what comes later is
    counted in ``lost``. The error is raised by the next ``write`` or at the end of the block, once; with ``on_error``
    it goes there instead. It never replaces an error that ends the block anyway: then it is logged.

    At the end the queue is written for at most ``close_seconds``. What is left then is dropped, which of a file is an
    error: the sink is closed as after any other.

    Args:
        sink: not entered yet; belongs to this one. Not a window, which needs the main thread.
        capacity: results of live streams that may wait, and as many of files.
            Each holds a frame and, where a sink draws, an annotated copy.
        on_error: called once with the sink's error, mostly from the other thread.
        close_seconds: for writing what waits at the end.

    Raises:
        ValueError: a capacity below 1.
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
        # Results, and names of streams that end.
        self._queue: deque[Result | str] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # The arguments of __exit__, once the owner's block has ended.
        self._end: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None = None
        self._finished = threading.Event()
        self._error: BaseException | None = None
        self._told = False
        self._dropped = 0
        self._lost = 0
        self._done = 0
        self._seconds = 0.0

    @property
    def pending(self) -> int:
        """Results that wait."""
        with self._changed:
            return self._waiting()

    @property
    def seconds(self) -> float:
        """That the other sink has spent writing."""
        return self._seconds

    @property
    def dropped(self) -> int:
        """Results of live streams that made room for others, or were left over at the end."""
        return self._dropped

    @property
    def lost(self) -> int:
        """Results that came after the sink's error, or waited when it happened, the one it happened with included;
        those of files that were left over at the end; and what the sink itself has lost."""
        return self._lost + self._sink.lost

    @property
    def done(self) -> int:
        """Results that the sink has taken; of a file the last may not be on the disk yet."""
        return self._done

    @property
    def error(self) -> BaseException | None:
        """What ended the sink, or what it says itself; None where nothing is or was wrong."""
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
        """Queues one frame.

        Raises:
            BaseException: what the other sink raised, unless it went to ``on_error``; once.
        """
        with self._changed:
            if self._thread is None or self._end is not None:
                raise ValueError("a sink takes frames inside its with block only")
            while not self._make_room(live=result.live) and self._error is None:
                self._changed.wait()
            if self._error is not None:
                self._lost += 1
                if not self._told:
                    self._told = True
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
        """Whether one more may wait, of a live stream if need be in the place of the oldest."""
        alike = [item for item in self._queue if isinstance(item, Result) and item.live is live]
        if len(alike) < self._capacity:
            return True
        if live:
            self._queue.remove(alike[0])
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
        # By an event: Thread.join that Ctrl-C interrupts takes a running thread for ended before Python 3.13.
        if not self._finished.wait(self._close_seconds):
            self._give_up()
        if not self._finished.wait(GRACE_SECONDS):
            logger.warning("%s hangs and is left behind; its file may be incomplete", self._name)
            self._record(SinkError(f"{self._name} hangs: a write did not end; check the disk or the network"))
        else:
            self._thread.join()
        self.written = self._sink.written
        if self._error is not None and not self._told:
            self._told = True
            if kind is None:
                raise self._error
            logger.warning("%s: %s", self._name, self._error)

    @property
    def _name(self) -> str:
        return type(self._sink).__name__

    def _give_up(self) -> None:
        """Drops what waits, at the end."""
        with self._changed:
            left = sum(isinstance(item, Result) and not item.live for item in self._queue)
            self._lost += left
            self._dropped += self._waiting() - left
            self._queue.clear()
        if left:
            self._record(
                SinkError(
                    f"{self._name} is too slow: {left} frames were not written within {self._close_seconds:g} s of the "
                    "end; write to a faster disk, or save less"
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
        """The oldest result, or end of a stream, that waits; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._end is not None)
            self._changed.notify_all()
            return self._queue.popleft() if self._queue else None

    def _close(self) -> None:
        """Closes the sink as a ``with`` block would that ended with its error, or else as the owner's did."""
        error = self._error
        try:
            if error is not None:
                self._sink.__exit__(type(error), error, error.__traceback__)
            elif self._end is not None:
                self._sink.__exit__(*self._end)
        except BaseException as close_error:
            self._record(close_error)

    def _record(self, error: BaseException) -> None:
        """Keeps the first error, or hands it over."""
        with self._changed:
            if self._error is not None:
                return
            self._error = error
            self._told = self._on_error is not None
            self._changed.notify_all()
        if self._on_error is not None:
            self._on_error(error)
