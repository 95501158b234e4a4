"""A pipeline that runs in another thread while a test watches it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.executor import RawDetections
from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream, StreamStatus
from retina_edge.sources.frames import Source
from tests.stand_in import StandIn, contract
from tests.waiting import NewThreads, wait_for

SECONDS = 30.0


class Slow(StandIn):
    """An executor that takes ``seconds`` for each batch."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(contract(), **options)
        self._seconds = seconds

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        time.sleep(self._seconds)
        return super().infer(images)


class Run:
    """A pipeline in another thread, with its results.

    Attributes:
        indices: frame indices of the results, for each stream.
        results: the results, for each stream.
        error: the error that ended the pipeline; None if there was none.
        on_result: called with each result, before the result is recorded.
        pipeline: the pipeline.
    """

    def __init__(
        self, sources: Mapping[str, Callable[[], Source]], stand_in: StandIn | None = None, **options: Any
    ) -> None:
        self.indices: dict[str, list[int]] = defaultdict(list)
        self.results: dict[str, list[Result]] = defaultdict(list)
        self.error: BaseException | None = None
        self.on_result: Callable[[Stream, Result], None] = lambda *_: None
        self.pipeline = Pipeline(
            Detector(stand_in or StandIn(contract())), sources, on_result=self._on_result, **options
        )
        self._threads = NewThreads()
        # A daemon, so that a thread that a failed test left running does not keep pytest from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _on_result(self, stream: Stream, result: Result) -> None:
        self.on_result(stream, result)
        self.indices[stream.name].append(result.frame.index)
        self.results[stream.name].append(result)

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self.error = error

    def start(self) -> Run:
        self._thread.start()
        return self

    def end(self, *, stop: bool = False) -> dict[str, StreamStatus]:
        """Wait for the pipeline, stop it first if asked to, and return the status of all streams."""
        if stop:
            self.pipeline.stop()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the pipeline hangs"
        captures = {f"capture {stream.name}" for stream in self.pipeline.streams}
        assert [name for name in self._threads.names() if name in captures] == []
        return self.status()

    def status(self) -> dict[str, StreamStatus]:
        return {stream.name: stream.status() for stream in self.pipeline.streams}


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until a condition is true."""
    wait_for(condition, seconds)
