"""Many streams and one detector.

Capture threads fill slots, the feeder's thread takes batches out of them and submits them to the detector, the
detector's thread waits for detections and hands results on. On a CPU submitting is letterboxing, and waiting is
inference; an engine has the frames from submission on. What is handed on is taken at once by whoever takes it: a slow
disk or network holds up no camera here. The caller's thread only looks on, so that no hanging one holds it.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engines.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.detector import Detector, Submitted
from retina_edge.pipeline.batcher import Batcher, Chosen
from retina_edge.pipeline.capture import Capture
from retina_edge.pipeline.stream import State, Stream
from retina_edge.pipeline.worker import Worker
from retina_edge.sinks.base import Result
from retina_edge.sources.frames import Source
from retina_edge.tracking.analysis import Analysis

# Seconds that the first frame of a batch waits for those of other streams.
DEADLINE = 0.01
# Batches on their way through the detector: of files enough to keep it busy. A live stream's frame is better taken
# late, and new, than early.
AHEAD, AHEAD_LIVE = 4, 1
# Of many files so many are open at a time, each with a decoder.
FILES_AT_A_TIME = 4
# Of batches in a row that the detector raises on, until it is taken to be broken.
MOST_FAILURES = 10
# Seconds that a camera has to let go of its thread at the end; one that hangs in its driver is left behind.
PATIENCE = 5.0
# Seconds between two looks at how far all are.
TICK = 0.05
# Seconds that the detector and outputs have for what is on its way, once the end was asked for.
LAST_SECONDS = 30.0

# Takes a result. It is waited for: of live streams it must not wait itself.
OnResult = Callable[[Stream, Result], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Flight:
    """A batch on its way through the detector, with its ticket, or with what kept it from getting one."""

    chosen: Chosen
    began: float
    ticket: Submitted[list[Detections]] | Exception


class Pipeline:
    """Runs a detector on several streams at a time, each live or a file, once.

    Args:
        detector: stays open; whoever made it closes it.
        sources: of each stream, by its name, what makes its source.
        on_result: called in the detector's thread with each result, in the order of each stream's frames.
        on_end: called there when a stream has given its last result.
        analyse: makes what follows the objects of a stream, by its name; None follows nothing.
        score: detections score more than this; None keeps all. ``set_score`` changes it while it runs.
        batch: frames an inference; None takes the model's own, else one of each stream where it can run several.
        deadline: seconds that a batch with a live stream's frame waits to be full.
        max_age: seconds from capture after which frames and results of live streams are dropped, and counted; None
            keeps all.
        max_frames: of each stream, after which it ends; None for all.
        keep_trying: a live stream that cannot be opened at first is tried again for ever; else that is an error, and
            only one that was there is reopened.
        hangs_after: seconds that the detector or whoever takes results may take for one batch; who takes longer is
            given up, and the run ends with an error. None waits for ever; after ``stop`` it is 30 s at most.

    Attributes:
        preprocess_seconds, infer_seconds: of the two threads, spent in the detector.
        seconds: that ``run`` took.

    Raises:
        RetinaEdgeError: a score or a batch size that the model cannot give, no streams.
    """

    def __init__(
        self,
        detector: Detector,
        sources: Mapping[str, Callable[[], Source]],
        *,
        on_result: OnResult,
        on_end: Callable[[Stream], None] = lambda _stream: None,
        analyse: Callable[[str], Analysis] | None = None,
        score: float | None = None,
        batch: int | None = None,
        deadline: float = DEADLINE,
        max_age: float | None = None,
        max_frames: int | None = None,
        keep_trying: bool = True,
        hangs_after: float | None = None,
    ) -> None:
        if not sources:
            raise RetinaEdgeError("sources: expected at least one stream, got none")
        self._detector, self._on_result, self._on_end, self._max_age = detector, on_result, on_end, max_age
        self._hangs_after = hangs_after
        self.score = detector.contract.score_threshold
        if score is not None:
            self.set_score(score)
        self._changed = threading.Condition()
        self.streams = tuple(
            Stream.of(name, source, self._changed, max_frames=max_frames) for name, source in sources.items()
        )
        size = detector.check_batch(batch if batch is not None else self._usual_batch())
        self._batcher = Batcher(self.streams, self._changed, size=size, deadline=deadline, max_age=max_age)
        self._failures: list[BaseException] = []
        self._analyses = {name: analyse(name) for name in sources} if analyse else {}
        self._captures = [
            Capture(stream, self._fail, on_end=self._start_captures, keep_trying=keep_trying) for stream in self.streams
        ]
        # Of a signal's handler, too, which may come while its own thread has it.
        self._starting = threading.RLock()
        self._stopped_at = math.inf
        self._flights: queue.SimpleQueue[_Flight | None] = queue.SimpleQueue()
        self._flying = 0
        self._landed = False
        self._failed_in_a_row = 0
        self._going = list(self.streams)
        self._workers = Worker("feeder", self._feed, self._fail), Worker("detector", self._land_all, self._fail)
        self._busy: dict[object, tuple[str, float]] = {}
        self.preprocess_seconds = self.infer_seconds = self.seconds = 0.0

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
            raise RetinaEdgeError(
                f"score: expected {least:g} <= score < 1, got {score:g}; the model drops what scores less than its "
                f"threshold {least:g}, so export it with a lower one"
            )
        self.score = score

    @property
    def online(self) -> int:
        """Streams that give frames now."""
        return sum(stream.state is State.ONLINE for stream in self.streams)

    def stop(self) -> None:
        """Ends the run from any thread: what was captured of files is still detected, live streams end at once."""
        with self._starting:
            self._stopped_at = min(self._stopped_at, time.monotonic())
        for capture in self._captures:
            capture.stop()

    @property
    def hangs(self) -> bool:
        """Whether a thread that was left behind may still use the detector."""
        return any(worker.running for worker in self._workers)

    def run(self, tick: Callable[[], None] = lambda: None) -> None:
        """Runs until every stream has ended or ``stop``; live streams do not end by themselves.

        Args:
            tick: called in the caller's thread now and then: for bars and windows.

        Raises:
            BaseException: the first error of the detector, of ``on_result``, of ``tick`` or of a thread; of the
                detector only if a frame of a file was in the batch, where every frame counts, or if it raises many
                times in a row. What was captured of files before a source failed is still detected.
        """
        start, patience = time.monotonic(), PATIENCE
        try:
            self._start_captures()
            for worker in self._workers:
                worker.start()
            while not self._workers[-1].wait(TICK):
                self._look_for_one_that_hangs()
                tick()
        except BaseException as error:
            self._failures.append(error)
            if isinstance(error, KeyboardInterrupt):  # somebody has no patience
                patience = 0.0
        finally:
            self.stop()
            with self._changed:
                self._landed = True
                self._changed.notify_all()
            threads = [("the detector", worker.wait) for worker in self._workers]
            self._leave([*threads, *((c.stream.source, c.wait) for c in self._captures)], patience)
            self.seconds += time.monotonic() - start
        if self._failures:
            raise self._failures[0]

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """Within it, ``name`` is waited for."""
        key = object()
        self._busy[key] = name, time.monotonic()
        try:
            yield
        finally:
            del self._busy[key]

    def _look_for_one_that_hangs(self) -> None:
        now = time.monotonic()
        for name, since in list(self._busy.values()):
            if self._hangs_after is not None and now - since > self._hangs_after:
                raise RetinaEdgeError(f"{name} hangs: expected an end within {self._hangs_after:g} s, and none came")
            if now - max(since, self._stopped_at) > LAST_SECONDS:
                raise RetinaEdgeError(f"{name} hangs: expected an end {LAST_SECONDS:g} s after it was asked for")

    def _leave(self, waits: Sequence[tuple[str, Callable[[float], bool]]], patience: float) -> None:
        """Waits for threads that have been asked to end, not for ever."""
        end = time.monotonic() + patience
        for name, wait in waits:
            if not wait(max(0.0, end - time.monotonic())) and patience:
                logger.warning("%s: hangs, and is left behind", name)

    def _fail(self, error: BaseException) -> None:
        """Of another thread; all end when all slots are closed, and empty."""
        self._failures.append(error)
        self.stop()

    def _start_captures(self) -> None:
        """Live streams at once, of files as many as may be open at a time; called again whenever one has ended."""
        with self._starting:
            open_files = sum(
                stream.started and not stream.live and stream.state is not State.ENDED for stream in self.streams
            )
            for capture in self._captures:
                stream = capture.stream
                if (
                    self._stopped_at == math.inf
                    and not stream.started
                    and (stream.live or open_files < FILES_AT_A_TIME)
                ):
                    open_files += not stream.live
                    capture.start()

    def _feed(self) -> None:
        """Submits batch after batch, as far ahead as is good for them."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._landed or self._flying < self._ahead())
                if self._landed or (chosen := self._batcher.take()) is None:
                    return
                with self._changed:
                    self._flying += 1
                self._flights.put(self._submit(chosen))
        finally:
            self._flights.put(None)

    def _ahead(self) -> int:
        return AHEAD_LIVE if any(stream.live and not stream.slot.ended for stream in self.streams) else AHEAD

    def _submit(self, chosen: Chosen) -> _Flight:
        began = time.monotonic()
        try:
            with self._watched("detector"):
                return _Flight(chosen, began, self._detector.submit([frame.image for _, frame in chosen]))
        except Exception as error:
            return _Flight(chosen, began, error)
        finally:
            self.preprocess_seconds += time.monotonic() - began

    def _land_all(self) -> None:
        while (flight := self._flights.get()) is not None:
            self._land(flight)
        for stream in self._going:
            self._on_end(stream)

    def _land(self, flight: _Flight) -> None:
        start = time.monotonic()
        try:
            if isinstance(flight.ticket, Exception):
                raise flight.ticket
            with self._watched("detector"):
                found = self._detector.result(flight.ticket)
        except Exception as error:
            self._failed(flight.chosen, error)
        else:
            self._failed_in_a_row = 0
            self.infer_seconds += time.monotonic() - start
            self._hand_on(flight.chosen, found, flight.began)
        finally:
            with self._changed:
                self._flying -= 1
                over = [stream for stream in self._going if stream.over]
                self._changed.notify_all()
        for stream in over:
            self._going.remove(stream)
            self._on_end(stream)

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
                with self._changed:
                    stream.expired += 1
                continue
            followed: dict[str, Any] = {}
            if analysis := self._analyses.get(stream.name):
                seconds = frame.captured if stream.live or frame.timestamp is None else frame.timestamp
                seen = analysis(frame, detections, self.score, seconds=seconds)
                kept = seen.detections
                followed = {"tracks": seen.tracks, "events": seen.events, "tallies": seen.tallies}
            else:
                kept = detections.above(self.score)
            result = Result(
                frame,
                kept,
                stream.name,
                stream.live,
                age_at_inference=began - frame.captured,
                age_at_output=age,
                **followed,
            )
            stream.finish(result, age)
            with self._watched("output"):
                self._on_result(stream, result)
