"""The implementation of ``Detector.stream``: a pipeline as an iterator."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.core.errors import SourceError
from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sources.stream_names import named_sources
from retina_edge.system.worker import Worker
from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.counting import Tally
from retina_edge.tracking.events import Event
from retina_edge.tracking.tracker import Tracks
from retina_edge.tracking.zones import Line, Zone

if TYPE_CHECKING:
    from retina_edge.detector import Detector

# Seconds between two checks that the pipeline still runs, while the caller waits for a result.
POLL_SECONDS = 0.2


class StreamedFrame(tuple[BgrImage, Detections]):
    """One frame of a stream and its detections: ``frame, detections = item``.

    Attributes:
        result: the pipeline's result, with all that is known about the frame.

    Examples:
        >>> import numpy as np
        >>> from retina_edge.sources.frames import Frame
        >>> video_frame = Frame(np.zeros((48, 64, 3), np.uint8), index=7, timestamp=0.28, name="flight.mp4")
        >>> item = StreamedFrame(Result(video_frame, Detections.empty((), ())))
        >>> frame, detections = item
        >>> frame.shape, len(detections), item.index, item.time
        ((48, 64, 3), 0, 7, 0.28)
    """

    result: Result

    def __new__(cls, result: Result) -> StreamedFrame:
        item = super().__new__(cls, (result.frame.image, result.detections))
        item.result = result
        return item

    @property
    def frame(self) -> BgrImage:
        """The frame: uint8 [height, width, 3], BGR."""
        return self.result.frame.image

    @property
    def detections(self) -> Detections:
        """The detections, in frame pixels."""
        return self.result.detections

    @property
    def index(self) -> int:  # type: ignore[override]  # hides tuple.index, which is useless here
        """Position of the frame in its source, from 0."""
        return self.result.frame.index

    @property
    def time(self) -> float | None:
        """Seconds since the start of the source; None for an image file."""
        return self.result.frame.timestamp

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.result.stream

    @property
    def tracks(self) -> Tracks | None:
        """Track id of each detection, int64 [N], -1 for a detection without a track; None if tracking is off."""
        return self.result.tracks

    @property
    def events(self) -> tuple[Event, ...]:
        """Events of zones and lines in this frame."""
        return self.result.events

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """Counts of the zones and lines after this frame."""
        return self.result.tallies


class _Stopped(Exception):
    """A signal that ends the run in the pipeline's thread, because the caller has left the loop."""


def stream_frames(
    detector: Detector,
    sources: str | Path | int | Sequence[str | Path | int],
    *,
    score: float | None = None,
    track: bool = False,
    regions: Sequence[Zone | Line] = (),
    max_frames: int | None = None,
) -> Iterator[StreamedFrame]:
    """Run a pipeline and yield its results in the caller's thread; see ``Detector.stream``.

    Sources, regions and the score are checked at the call, not at the first iteration.
    """
    names = [sources] if isinstance(sources, str | Path | int) else sources
    named = named_sources([str(name) for name in names])
    tracking = TrackingOptions(track, regions)
    # Only one result waits while the loop works on another, so that the loop gets new frames of a live stream.
    results: queue.Queue[Result] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def on_result(_stream: Stream, result: Result) -> None:
        while not stopped.is_set():
            try:
                results.put(result, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue
        raise _Stopped

    pipeline = Pipeline(
        detector,
        named,
        on_result=on_result,
        analyze=tracking.analyzers(list(named), detector.contract.class_names),
        score=score,
        max_frames=max_frames,
        keep_trying=False,
    )
    return _iterate(pipeline, results, stopped)


def _iterate(pipeline: Pipeline, results: queue.Queue[Result], stopped: threading.Event) -> Iterator[StreamedFrame]:
    failures: list[BaseException] = []
    worker = Worker("pipeline", pipeline.run, failures.append)
    worker.start()
    try:
        while worker.running or not results.empty():
            try:
                result = results.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            yield StreamedFrame(result)
            del result  # the frame pool reuses an image only if nothing refers to it
    finally:
        stopped.set()
        pipeline.stop()
        worker.wait()
    if failures:
        raise failures[0]
    if errors := [error for stream in pipeline.streams for error in stream.errors]:
        raise SourceError("; ".join(errors))
