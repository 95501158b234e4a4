"""A sink that records what it gets, and a function that writes to any sink."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink


class Recorder(Sink):
    """A sink that keeps the frame indices, waits for ``gate`` before each write, and raises at index ``fails_at``."""

    def __init__(self, *, fails_at: int | None = None, delay: float = 0.0, fails_to_close: bool = False) -> None:
        self.indices: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed_with: list[BaseException | None] = []
        self._fails_at = fails_at
        self._delay = delay
        self._fails_to_close = fails_to_close

    def write(self, result: Result) -> None:
        assert self.gate.wait(20)
        time.sleep(self._delay)
        if result.frame.index == self._fails_at:
            raise OSError("the disk is full")
        self.indices.append(result.frame.index)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed_with.append(error)
        if self._fails_to_close:
            raise OSError("the index could not be written")


def write_all(sink: Sink, results: list[Result], *, error: BaseException | None = None) -> None:
    """Write results to a sink in its with block, which may end with an error."""
    with sink:
        for item in results:
            sink.write(item)
        if error is not None:
            raise error
