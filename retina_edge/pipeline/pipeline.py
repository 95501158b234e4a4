"""Many streams through one detector: capture threads fill slots, one loop batches, detects and hands on.

No frame is picked before the detector is free, so that a live stream's result is never older than a frame of its own
and two runs of the detector. What is handed on is taken at once by whoever takes it: a slow disk or network holds up
nothing here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from engines.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.detector import Detector
from retina_edge.pipeline.batcher import Batcher, Chosen
from retina_edge.pipeline.capture import Capture
from retina_edge.pipeline.stream import State, Stream
from retina_edge.sinks.base import Result
from retina_edge.sources.frames import Source
from retina_edge.tracking.analysis import Analysis

# Seconds that the first frame of a batch waits for those of other streams.
DEADLINE = 0.01
# Of batches in a row that the detector raises on, until it is taken to be broken.
MOST_FAILURES = 10
# Seconds that a camera has to let go of its thread at the end; one that hangs in its driver is left behind.
PATIENCE = 5.0

# Takes a result; must not wait.
OnResult = Callable[[Stream, Result], None]

logger = logging.getLogger(__name__)


class LivePipeline:
    """Runs a detector on several streams at a time, each live or a file.

    Args:
        detector: stays open; whoever made it closes it.
        sources: of each stream, by its name, what makes its source.
        on_result: called in the loop's thread with each result, in the order of each stream's frames; must not wait.
        analyse: makes what follows the objects of a stream, by its name; None follows nothing.
        score: detections score more than this; None keeps all. ``set_score`` changes it while it runs.
        batch: frames an inference; None takes the model's own, else one of each stream where it can run several.
        deadline: seconds that a batch waits to be full.
        max_age: seconds from capture after which frames and results of live streams are dropped, and counted; None
            keeps all.

    Raises:
        RetinaEdgeError: a score or a batch size that the model cannot give, no streams.
    """

    def __init__(
        self,
        detector: Detector,
        sources: Mapping[str, Callable[[], Source]],
        *,
        on_result: OnResult,
        analyse: Callable[[str], Analysis] | None = None,
        score: float | None = None,
        batch: int | None = None,
        deadline: float = DEADLINE,
        max_age: float | None = None,
    ) -> None:
        if not sources:
            raise RetinaEdgeError("sources: expected at least one stream, got none")
        self._detector, self._on_result, self._max_age = detector, on_result, max_age
        self.score = detector.contract.score_threshold
        if score is not None:
            self.set_score(score)
        ready = threading.Condition()
        self.streams = tuple(Stream.of(name, source, ready) for name, source in sources.items())
        size = detector.check_batch(batch if batch is not None else self._usual_batch())
        self._batcher = Batcher(self.streams, ready, size=size, deadline=deadline, max_age=max_age)
        self._failures: list[BaseException] = []
        self._analyses = {name: analyse(name) for name in sources} if analyse else {}
        self._captures = [Capture(stream, self._fail) for stream in self.streams]
        self._failed_in_a_row = 0

    def _usual_batch(self) -> int | None:
        largest = self._detector.executor.max_batch
        return min(largest, len(self.streams)) if largest and self._detector.executor.batch is None else None

    def set_score(self, score: float) -> None:
        """What is kept from the next result on.

        Raises:
            RetinaEdgeError: less than the model itself keeps, or not below 1.
        """
        least = self._detector.contract.score_threshold
        if not least <= score < 1:
            raise RetinaEdgeError(f"score: expected {least:g} <= score < 1, got {score:g}")
        self.score = score

    def _fail(self, error: BaseException) -> None:
        """Of a capture's thread; the loop ends when all slots are closed."""
        self._failures.append(error)
        self.stop()

    def stop(self) -> None:
        """Ends the run from any thread: what was captured of files is still detected, live streams end at once."""
        for capture in self._captures:
            capture.stop()

    def run(self) -> None:
        """Runs until every stream has ended or ``stop``; live streams do not end by themselves.

        Raises:
            BaseException: the first error of the detector, of ``on_result`` or of a thread; of the detector only if a
                frame of a file was in the batch, where every frame counts, or if it raises many times in a row.
        """
        error: BaseException | None = None
        try:
            for capture in self._captures:
                capture.start()
            while (chosen := self._batcher.take()) is not None and not self._failures:
                self._handle(chosen)
        except BaseException as raised:
            error = raised
        finally:
            self.stop()
            end = time.monotonic() + PATIENCE
            for capture in self._captures:
                if not capture.wait(max(0.0, end - time.monotonic())):
                    logger.warning("%s: hangs, and is left behind", capture.stream.source)
        for first in [error, *self._failures]:
            if first is not None:
                raise first

    def _handle(self, chosen: Chosen) -> None:
        began = time.monotonic()
        try:
            found = self._detector.result(self._detector.submit([frame.image for _, frame in chosen]))
        except Exception as error:
            self._failed(chosen, error)
            return
        self._failed_in_a_row = 0
        self._hand_on(chosen, found, began)

    def _failed(self, chosen: Chosen, error: Exception) -> None:
        """Live streams go on with their next frame; of a file no frame may be missing."""
        self._failed_in_a_row += 1
        for stream, _ in chosen:
            stream.failed += 1
            stream.error = f"detector: {error}"
        if self._failed_in_a_row >= MOST_FAILURES or not all(stream.live for stream, _ in chosen):
            raise error
        logger.warning("detector: %s; %d frames are lost", error, len(chosen))

    def _hand_on(self, chosen: Chosen, found: Sequence[Detections], began: float) -> None:
        for (stream, frame), detections in zip(chosen, found, strict=True):
            age = time.monotonic() - frame.captured
            if self._max_age is not None and stream.live and age > self._max_age:
                stream.expired += 1
                continue
            told = stream.name, began - frame.captured, age
            if analysis := self._analyses.get(stream.name):
                seen = analysis(frame, detections, self.score)
                result = Result(frame, seen.detections, *told, seen.tracks, seen.events, seen.tallies)
            else:
                result = Result(frame, detections.above(self.score), *told)
            stream.finish(result, age)
            self._on_result(stream, result)

    @property
    def online(self) -> int:
        """Streams that give frames now."""
        return sum(stream.state is State.ONLINE for stream in self.streams)
