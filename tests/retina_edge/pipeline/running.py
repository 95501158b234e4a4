"""A pipeline that runs in a thread of its own while a test looks on."""

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
from tests.waiting import wait_for

SECONDS = 30.0


class Slow(StandIn):
    """Takes its time for each run."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(contract(), **options)
        self._seconds = seconds

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        time.sleep(self._seconds)
        return super().infer(images)


class Run:
    """A pipeline in a thread of its own, and what it gave."""

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
        # Left behind by a test that fails, it must not keep the whole run from its end.
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
        if stop:
            self.pipeline.stop()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "hangs"
        ours = {f"capture {stream.name}" for stream in self.pipeline.streams}
        left = [thread.name for thread in threading.enumerate() if thread.name in ours]
        assert left == [], "a thread was left behind"
        return self.status()

    def status(self) -> dict[str, StreamStatus]:
        return {stream.name: stream.status() for stream in self.pipeline.streams}


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    wait_for(condition, seconds)
