"""The pipeline: many streams and one detector.

    capture threads ─▶ mailboxes ─▶ feeder thread ─▶ batches in flight ─▶ detector thread ─▶ on_result

Capture threads fill the mailboxes. The feeder takes batches out of them and submits them to the detector. The detector
thread waits for detections and passes results on. With a CPU executor, the feeder letterboxes and the detector thread
runs the network; an engine works on frames as soon as they are submitted. ``on_result`` must not block, because a slow
disk or network must not hold up a camera. The caller's thread only watches, so a thread that hangs does not block it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engines.core.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.pipeline.batcher import Batcher, FrameBatch
from retina_edge.pipeline.capture import Capture
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import State, Stream
from retina_edge.pipeline.watchdog import Watchdog
from retina_edge.sources.frames import Source
from retina_edge.system.worker import Worker
from retina_edge.tracking.analysis import StreamAnalyzer

if TYPE_CHECKING:
    from retina_edge.detector import DetectionTicket, Detector

# Seconds that the first frame of a batch waits for frames of other streams.
DEADLINE = 0.01
# Batches in flight: enough to keep the detector busy with files; one for live streams, so that frames are recent.
MAX_BATCHES_IN_FLIGHT, MAX_BATCHES_IN_FLIGHT_LIVE = 4, 1
# Files that are open at once, each with a decoder.
MAX_OPEN_FILES = 4
# Consecutive batches that the detector may fail on before the run ends.
MAX_CONSECUTIVE_FAILURES = 10
# Seconds to wait for threads at the end. A camera that hangs in its driver is left behind.
JOIN_TIMEOUT = 5.0
# Seconds between two calls of ``tick``.
TICK_SECONDS = 0.05
# Seconds that the detector and the outputs have to finish the batches in flight after ``stop``.
DRAIN_TIMEOUT = 30.0

# A callback for results. The detector thread waits for it, so with live streams it must return at once.
OnResult = Callable[[Stream, Result], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Submission:
    """A batch in flight: its ticket, or the error that submitting it raised."""

    frames: FrameBatch
    began: float
    ticket: DetectionTicket[list[Detections]] | Exception


class Pipeline:
    """A single run of a detector over several streams at once, live streams or files.

    Args:
        detector: the detector; it stays open and belongs to the caller.
        sources: for each stream name, a function that makes its source.
        on_result: called in the detector thread with each result, in the order of each stream's frames.
        on_end: called in the detector thread after the last result of a stream.
        analyze: function that makes the analyzer of a stream, by its name; None for no tracking.
        score: score threshold of detections; None for the detector's ``default_score``. ``set_score`` changes it
            during the run.
        batch: frames in a batch; None for the model's fixed batch size, or, without one, for one frame of each stream.
        deadline: seconds that a batch with a live frame waits until it is full.
        max_age: seconds since capture after which frames and results of live streams are dropped; None for no limit.
        max_frames: number of frames after which each stream ends; None for all frames.
        keep_trying: True to retry forever to open a live stream; False to reopen only a stream that has been online.
        hangs_after: seconds that the detector or ``on_result`` may take for one batch before the run fails; None for no
            limit. After ``stop`` the limit is 30 s.

    Attributes:
        streams: the streams, in the order of ``sources``.
        score: current score threshold of detections.
        model_threshold: score that every detection of the model exceeds.
        preprocess_seconds, infer_seconds: seconds that the feeder and the detector thread spent in the detector.
        seconds: duration of ``run``.

    Raises:
        RetinaEdgeError: if the model does not support the score or the batch size, or if there are no streams.

    Examples:
        >>> from retina_edge import Detector
        >>> from retina_edge.assets import FOREST, MODEL
        >>> from retina_edge.sources.stream_names import named_sources
        >>> with Detector.load(MODEL) as detector:
        ...     Pipeline(detector, named_sources([str(FOREST)]), on_result=lambda _, item: print(item.detections)).run()
        Detections(84: 84 tree; best 0.83)
    """

    def __init__(
        self,
        detector: Detector,
        sources: Mapping[str, Callable[[], Source]],
        *,
        on_result: OnResult,
        on_end: Callable[[Stream], None] = lambda _stream: None,
        analyze: Callable[[str], StreamAnalyzer] | None = None,
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
        self._watchdog = Watchdog(hangs_after, DRAIN_TIMEOUT)
        self.score, self.model_threshold = detector.default_score, detector.score_threshold
        if score is not None:
            self.set_score(score)
        self._changed = threading.Condition()
        self.streams = tuple(
            Stream.of(name, source, self._changed, max_frames=max_frames) for name, source in sources.items()
        )
        size = detector.choose_batch(batch, frames=len(self.streams))
        self._batcher = Batcher(self.streams, self._changed, size=size, deadline=deadline, max_age=max_age)
        self._failures: list[BaseException] = []
        self._analyzers = {name: analyze(name) for name in sources} if analyze else {}
        self._captures = [
            Capture(
                stream,
                self._fail,
                on_end=self._start_captures,
                pool=detector.executor.pool,
                keep_trying=keep_trying,
            )
            for stream in self.streams
        ]
        # Reentrant: a signal handler may call ``stop`` while its own thread holds the lock.
        self._starting = threading.RLock()
        self._submissions: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._in_flight = 0
        self._closing, self._consecutive_failures = False, 0
        self._unfinished = list(self.streams)
        self._workers = Worker("feeder", self._feed, self._fail), Worker("detector", self._finish_all, self._fail)
        self.preprocess_seconds = self.infer_seconds = self.seconds = 0.0

    def set_score(self, score: float) -> None:
        """Change the score threshold, from the next result on.

        Raises:
            RetinaEdgeError: if the score is below the model's own threshold, or not below 1.
        """
        self.score = self._detector.check_score(score)

    @property
    def online(self) -> int:
        """Number of streams that deliver frames now."""
        return sum(stream.state is State.ONLINE for stream in self.streams)

    def stop(self) -> None:
        """End the run. Live streams end at once, and captured frames of files are still detected. Thread-safe."""
        with self._starting:
            self._watchdog.stop()
        for capture in self._captures:
            capture.stop()

    @property
    def hangs(self) -> bool:
        """True if a thread that was left behind may still use the detector."""
        return any(worker.running for worker in self._workers)

    def run(self, tick: Callable[[], None] = lambda: None) -> None:
        """Run until every stream has ended, or until ``stop``. A live stream only ends at ``stop``.

        Args:
            tick: called in the caller's thread every ``TICK_SECONDS``, for progress bars and windows.

        Raises:
            BaseException: the first error of ``on_result``, ``tick`` or a thread, after all captured frames of files
                are detected. The detector may fail on batches of live frames, but not on too many in a row.
        """
        start, timeout = time.monotonic(), JOIN_TIMEOUT
        try:
            self._watchdog.start()
            self._start_captures()
            for worker in self._workers:
                worker.start()
            while not self._workers[-1].wait(TICK_SECONDS):
                self._watchdog.check()
                tick()
        except BaseException as error:
            self._failures.append(error)
            if isinstance(error, KeyboardInterrupt):  # do not wait for threads
                timeout = 0.0
        finally:
            self.stop()
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            threads = [("the detector", worker.wait) for worker in self._workers]
            self._join([*threads, *((c.stream.source, c.wait) for c in self._captures)], timeout)
            self.seconds += time.monotonic() - start
        if self._failures:
            raise self._failures[0]

    def _join(self, waits: Sequence[tuple[str, Callable[[float], bool]]], timeout: float) -> None:
        """Wait for threads to end, at most ``timeout`` seconds for all of them."""
        end = time.monotonic() + timeout
        for name, wait in waits:
            if not wait(max(0.0, end - time.monotonic())) and timeout:
                logger.warning("%s: hangs and is left behind", name)

    def _fail(self, error: BaseException) -> None:
        """Record an error of another thread; all threads end once all mailboxes are closed and empty."""
        self._failures.append(error)
        self.stop()

    def _start_captures(self) -> None:
        """Start all live streams and as many files as may be open; called again when a capture has ended."""
        with self._starting:
            open_files = sum(
                stream.started and not stream.live and stream.state is not State.ENDED for stream in self.streams
            )
            for capture in self._captures:
                stream = capture.stream
                if not self._watchdog.stopped and not stream.started and (stream.live or open_files < MAX_OPEN_FILES):
                    open_files += not stream.live
                    capture.start()

    def _feed(self) -> None:
        """Submit batch after batch, and keep as many in flight as the kind of the streams allows."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._in_flight < self._max_in_flight())
                if self._closing or (frames := self._batcher.take()) is None:
                    return
                with self._changed:
                    self._in_flight += 1
                self._submissions.put(self._submit(frames))
        finally:
            self._submissions.put(None)

    def _max_in_flight(self) -> int:
        live = any(stream.live and not stream.mailbox.ended for stream in self.streams)
        return MAX_BATCHES_IN_FLIGHT_LIVE if live else MAX_BATCHES_IN_FLIGHT

    def _submit(self, frames: FrameBatch) -> _Submission:
        began = time.monotonic()
        try:
            with self._watchdog.busy("detector"):
                images = [frame.image for _, frame in frames]
                # The tracker needs weak detections, too.
                ticket = self._detector.submit(images, score=self._detector.score_threshold)
                return _Submission(frames, began, ticket)
        except Exception as error:
            return _Submission(frames, began, error)
        finally:
            self.preprocess_seconds += time.monotonic() - began

    def _finish_all(self) -> None:
        while (submission := self._submissions.get()) is not None:
            self._finish(submission)
        for stream in self._unfinished:
            self._on_end(stream)

    def _finish(self, submission: _Submission) -> None:
        start = time.monotonic()
        try:
            if isinstance(submission.ticket, Exception):
                raise submission.ticket
            with self._watchdog.busy("detector"):
                detections = self._detector.result(submission.ticket)
        except Exception as error:
            self._count_failure(submission.frames, error)
        else:
            self._consecutive_failures = 0
            self.infer_seconds += time.monotonic() - start
            self._pass_on(submission.frames, detections, submission.began)
        finally:
            with self._changed:
                self._in_flight -= 1
                finished = [stream for stream in self._unfinished if stream.finished]
                self._changed.notify_all()
        for stream in finished:
            self._unfinished.remove(stream)
            self._on_end(stream)

    def _count_failure(self, frames: FrameBatch, error: Exception) -> None:
        """Count a failed batch. Raise its error if it holds a frame of a file, or after too many failures in a row."""
        self._consecutive_failures += 1
        for stream, _ in frames:
            stream.failed += 1
            stream.error = f"detector: {error}"
        if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES or not all(stream.live for stream, _ in frames):
            raise error
        logger.warning("detector: %s; %d frames have no result", error, len(frames))

    def _pass_on(self, frames: FrameBatch, detections: Sequence[Detections], began: float) -> None:
        for (stream, frame), detected in zip(frames, detections, strict=True):
            age = time.monotonic() - frame.captured
            if self._max_age is not None and stream.live and age > self._max_age:
                with self._changed:
                    stream.expired += 1
                continue
            analysis: dict[str, Any] = {}
            if analyzer := self._analyzers.get(stream.name):
                # Files have times of their own, so that counts do not depend on the speed of the machine.
                seconds = frame.captured if stream.live else frame.seconds
                analyzed = analyzer(frame, detected, self.score, seconds=seconds)
                kept = analyzed.detections
                analysis = {"tracks": analyzed.tracks, "events": analyzed.events, "tallies": analyzed.tallies}
            else:
                kept = detected.above(self.score)
            result = Result(
                frame,
                kept,
                stream.name,
                stream.live,
                age_at_inference=began - frame.captured,
                age_at_output=age,
                **analysis,
            )
            stream.record(result, age, float(detected.scores.max(initial=0.0)))
            with self._watchdog.busy("output"):
                self._on_result(stream, result)
