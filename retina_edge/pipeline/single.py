"""Reads, detects and writes at the same time, so that the detector never waits for a codec.

A reader thread decodes and submits, the caller's thread waits for detections, a writer thread draws and encodes.
On a CPU submitting is letterboxing, and waiting is inference; an engine has the frames from submission on. Bounded
queues lie between the threads. Each producer ends with None, and each consumer takes everything up to it, whatever
happened: no thread can be left waiting on a full or an empty queue.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from engines.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.detector import Detector, Submitted
from retina_edge.pipeline.worker import Worker
from retina_edge.sinks.base import Result, Sink
from retina_edge.sources.frames import Frame, Source

STAGES = ("read", "preprocess", "infer", "draw+write")
# Batches in flight between two stages: enough to even out slow frames, few enough for large ones.
QUEUE_SIZE = 4
DRAIN_SECONDS = 0.05


@dataclass(frozen=True)
class Summary:
    """What one or several runs did.

    Attributes:
        frames: written to every sink.
        detections: in them, above the score asked for.
        seconds: from the first read to the last write.
        stage_ms: milliseconds a frame of each of ``STAGES``. They overlap, so their sum is not the time a frame.
        errors: pictures that could not be read, one line each.
        warnings: what is odd in a source, one line each.
    """

    frames: int
    detections: int
    seconds: float
    stage_ms: dict[str, float]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def fps(self) -> float:
        """Frames a second over the whole run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Batch:
    """Frames on their way through the detector."""

    frames: list[Frame]
    ticket: Submitted[list[Detections]]


_Results = list[tuple[Frame, Detections]]


class Pipeline:
    """Runs a detector on sources and hands every frame, in order and none dropped, to the sinks.

    Args:
        detector: stays open; whoever made it closes it.
        score: detections score more than this; None keeps all. Under the contract's threshold there are none.
        batch: frames an inference; None takes the executor's own, or 1.
        max_frames: of each source.
        on_progress: called in the caller's thread with the number of frames just detected.

    Raises:
        RetinaEdgeError: a score or a batch size that the model cannot give.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        score: float | None = None,
        batch: int | None = None,
        max_frames: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        threshold = detector.contract.score_threshold
        if score is not None and not threshold <= score < 1:
            raise RetinaEdgeError(
                f"score: expected {threshold:g} <= score < 1, got {score:g}; the model drops what scores less than "
                f"its threshold {threshold:g}, so export it with a lower one"
            )
        self._detector = detector
        self._score = score
        self._batch = detector.check_batch(batch)
        self.max_frames = max_frames
        self._on_progress = on_progress
        self._halt = threading.Event()
        self._seconds = 0.0
        self._stage_seconds = dict.fromkeys(STAGES, 0.0)
        self._frames = 0
        self._detections = 0
        self._errors: list[str] = []
        self._warnings: list[str] = []
        self.stopped = False

    def stop(self) -> None:
        """Ends the run in progress as if its source ended now: what was read is still detected and written."""
        self.stopped = True
        self._halt.set()

    def summary(self) -> Summary:
        """What all runs so far did, a broken one included."""
        return Summary(
            frames=self._frames,
            detections=self._detections,
            seconds=self._seconds,
            stage_ms={stage: 1000 * s / max(1, self._frames) for stage, s in self._stage_seconds.items()},
            errors=tuple(self._errors),
            warnings=tuple(self._warnings),
        )

    def run(self, source: Source, sinks: Sequence[Sink]) -> None:
        """Takes an open source to its end.

        When a stage fails, or on Ctrl-C, the stages before it stop, those after it finish what they have, all
        threads end, and the first error is raised. One more Ctrl-C gives up a camera that hangs.

        Args:
            source: inside its ``with`` block.
            sinks: inside theirs; written to from another thread.
        """
        todo: queue.Queue[_Batch | None] = queue.Queue(QUEUE_SIZE)
        done: queue.Queue[_Results | None] = queue.Queue(QUEUE_SIZE)
        failures: list[BaseException] = []
        broken = threading.Event()
        if not self.stopped:
            self._halt.clear()

        def give_up(error: BaseException) -> None:
            failures.append(error)
            broken.set()
            self._halt.set()

        reader = Worker("reader", lambda: self._read(source, todo), failures.append)
        writer = Worker("writer", lambda: self._write(sinks, done, give_up), failures.append)
        start = perf_counter()
        try:
            reader.start()
            writer.start()
            while (batch := todo.get()) is not None and not broken.is_set():
                done.put(self._infer(batch))
                if self._on_progress is not None:
                    self._on_progress(len(batch.frames))
        except BaseException as error:
            failures.append(error)
        finally:

            def end_reader() -> None:
                self._halt.set()
                while reader.running:
                    _discard(todo)
                reader.wait()

            def end_writer() -> None:
                if writer.running:
                    done.put(None)
                writer.wait()

            # The sinks close when this returns, so the writer must have let go of them.
            for wait in (end_reader, end_writer):
                _patiently(wait, failures)
            self._seconds += perf_counter() - start
            self._errors += source.errors
            self._warnings += source.warnings
        if failures:
            raise failures[0]

    def _read(self, source: Source, todo: queue.Queue[_Batch | None]) -> None:
        try:
            frames = itertools.islice(source, self.max_frames)
            while not self._halt.is_set() and (chunk := self._next_frames(frames)):
                start = perf_counter()
                ticket = self._detector.submit([frame.image for frame in chunk])
                self._stage_seconds["preprocess"] += perf_counter() - start
                todo.put(_Batch(chunk, ticket))
        finally:
            todo.put(None)

    def _next_frames(self, frames: Iterator[Frame]) -> list[Frame]:
        """Up to a batch of frames; empty at the end."""
        start = perf_counter()
        chunk = list(itertools.islice(frames, self._batch))
        self._stage_seconds["read"] += perf_counter() - start
        return chunk

    def _infer(self, batch: _Batch) -> _Results:
        start = perf_counter()
        found = self._detector.result(batch.ticket)
        if self._score is not None:
            found = [detections.above(self._score) for detections in found]
        self._stage_seconds["infer"] += perf_counter() - start
        return list(zip(batch.frames, found, strict=True))

    def _write(
        self,
        sinks: Sequence[Sink],
        done: queue.Queue[_Results | None],
        give_up: Callable[[BaseException], None],
    ) -> None:
        try:
            while (results := done.get()) is not None:
                start = perf_counter()
                for frame, detections in results:
                    result = Result(frame, detections)
                    for sink in sinks:
                        sink.write(result)
                    self._frames += 1
                    self._detections += len(detections)
                self._stage_seconds["draw+write"] += perf_counter() - start
        except BaseException as error:
            give_up(error)
            while done.get() is not None:
                pass


def _patiently(wait: Callable[[], None], failures: list[BaseException]) -> None:
    """Waits through one Ctrl-C, which becomes a failure; the next is meant for what hangs, and gives up."""
    for _ in range(2):
        try:
            wait()
            return
        except KeyboardInterrupt as error:
            failures.append(error)


def _discard(items: queue.Queue[_Batch | None]) -> None:
    """Makes room for a producer that may be waiting to put."""
    try:
        items.get(timeout=DRAIN_SECONDS)
    except queue.Empty:
        return
