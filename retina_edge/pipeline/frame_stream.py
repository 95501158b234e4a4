"""The implementation of ``Detector.stream``: a pipeline as an iterator."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from engines.core.errors import RetinaEdgeError, SourceError
from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.pipeline.annotation import annotate
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sources.stream_names import named_sources, with_bit_depth
from retina_edge.system.worker import Worker, in_worker
from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.events import Event
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.tracker import Tracks
from retina_edge.tracking.tracker_names import TRACKERS, TrackerName
from retina_edge.tracking.zones import Line, Zone

if TYPE_CHECKING:
    from retina_edge.detector import Detector

# A source as ``retina-edge detect`` takes it, or the index of a camera.
SourceName: TypeAlias = Union[str, "os.PathLike[str]", int]

# Seconds between two checks that the pipeline still runs, while the caller waits for a result.
POLL_SECONDS = 0.2


class StreamedFrame(tuple[BgrImage, Detections]):
    """One frame of a stream and its detections: ``frame, detections = item``.

    The frame belongs to the caller, who may modify it. Its memory is reused once nothing refers to it: the detections
    refer to it only weakly, so that they can be stored without the frames.

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
        # A view, because the pipeline keeps the newest image itself for the status of the stream.
        frame = result.frame.image[:]
        item = super().__new__(cls, (frame, replace(result.detections, stream_frame=weakref.ref(frame))))
        item.result = result
        return item

    @property
    def frame(self) -> BgrImage:
        """The frame: uint8 [height, width, 3], BGR."""
        return self[0]

    @property
    def detections(self) -> Detections:
        """The detections, in frame pixels."""
        return self[1]

    @property
    def index(self) -> int:  # type: ignore[override]  # hides tuple.index, which is useless here
        """Position of the frame in its source, from 0."""
        return self.result.frame.index

    @property
    def time(self) -> float | None:
        """Seconds since the start of the source; None for an image file without ``fps``."""
        return self.result.frame.timestamp

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.result.stream

    @property
    def name(self) -> str:
        """Path of the image or video, or name of the camera or URL, without credentials."""
        return self.result.frame.name

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

    def plot(self) -> BgrImage:
        """Return a copy of the frame with boxes, tracks, zones and lines drawn into it: uint8 [height, width, 3], BGR.

        Examples:
            >>> from retina_edge import Detector
            >>> from retina_edge.assets import FOREST, MODEL
            >>> with Detector.load(MODEL) as detector:
            ...     (item,) = detector.stream(FOREST)
            >>> item.plot().shape
            (622, 2299, 3)
        """
        return annotate(self.frame, self.detections, tracks=self.tracks, tallies=self.tallies)


class FrameStream(Iterator[StreamedFrame]):
    """The iterator that ``Detector.stream`` returns. Nothing is opened before the first frame is requested.

    The sources are closed at the end of the stream, by ``close``, at the end of a ``with`` block, when the stream is
    deleted, when the detector is closed, and when the interpreter exits.

    Args:
        detector: the detector; it stays open and belongs to the caller.
        sources, score, track, regions, max_frames, fps: as for ``Detector.stream``.

    Raises:
        RetinaEdgeError: as ``Detector.stream`` does.

    Examples:
        >>> from retina_edge import Detector
        >>> from retina_edge.assets import FOREST, MODEL
        >>> with Detector.load(MODEL) as detector, detector.stream([FOREST, FOREST]) as stream:
        ...     first = next(stream)
        >>> first.index, next(stream, None)
        (0, None)
    """

    def __init__(
        self,
        detector: Detector,
        sources: SourceName | Iterable[SourceName],
        *,
        score: float | None = None,
        track: bool | TrackerName = False,
        regions: Sequence[Zone | Line] = (),
        max_frames: int | None = None,
        fps: float | None = None,
    ) -> None:
        self._detector = detector
        self._check_detector()
        named = named_sources(_source_names(sources), fps=fps)
        tracker = TRACKERS[0] if isinstance(track, bool) else track
        tracking = TrackingOptions(bool(track), regions, tracker=tracker)
        self._run = run = _Run(
            detector,
            with_bit_depth(named, detector.contract.bit_depth),
            analyze=tracking.analyzers(tracking.store(list(named), detector.contract.class_names)),
            score=score,
            max_frames=max_frames,
            keep_trying=False,
        )
        detector.borrowers.add(run)
        # Python also calls this at its exit: threads that are still inside OpenCV or ONNX Runtime would abort it.
        weakref.finalize(self, run.release)
        self._ended = False

    def __next__(self) -> StreamedFrame:
        if not self._ended:
            self._check_detector()
            if (result := self._run.next_result()) is not None:
                return StreamedFrame(result)
        if not self._ended:  # ``close`` in another thread may have ended it
            self._check_detector()
            self.close()
            self._run.raise_errors()
        raise StopIteration

    def close(self) -> None:
        """End the stream and close its sources. A second call does nothing."""
        self._ended = True
        self._run.close()

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_detector(self) -> None:
        if self._detector.closed:
            raise RetinaEdgeError("expected an open detector, got a closed one; use the stream before closing it")


class _Stopped(Exception):
    """A signal that ends the run in the pipeline's thread, because the stream is closed."""


class _Run:
    """The pipeline of a stream and its thread. It does not refer to the stream, which can be deleted while it runs.

    Args:
        detector, sources, options: as for ``Pipeline``.
    """

    def __init__(self, detector: Detector, sources: Any, **options: Any) -> None:
        # Only one result waits while the loop works on another, so that the loop gets new frames of a live stream.
        self._results: queue.Queue[Result] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._failures: list[BaseException] = []
        self._pipeline = Pipeline(detector, sources, on_result=self._put, **options)
        self._worker = Worker("pipeline", self._pipeline.run, self._failures.append)
        self._started = False

    def next_result(self) -> Result | None:
        """Wait for the next result; None after the last one. The first call starts the run."""
        if not self._started:
            self._started = True
            self._worker.start()
        while not self._stopped.is_set() and (self._worker.running or not self._results.empty()):
            try:
                return self._results.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
        return None

    def close(self) -> None:
        """End the run and wait for its threads."""
        self._stop()
        self._worker.wait()

    def release(self) -> None:
        """End the run when its stream is deleted, which the garbage collector may do in any thread."""
        self._stop()
        if not in_worker():
            self._worker.wait()

    def raise_errors(self) -> None:
        """Raise the error that ended the run, or one that lists what could not be read."""
        if self._failures:
            raise self._failures[0]
        if errors := [error for stream in self._pipeline.streams for error in stream.errors]:
            raise SourceError("; ".join(errors))

    def _stop(self) -> None:
        self._stopped.set()
        self._pipeline.stop()

    def _put(self, _stream: Stream, result: Result) -> None:
        while not self._stopped.is_set():
            try:
                self._results.put(result, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue
        raise _Stopped


def _source_names(sources: SourceName | Iterable[SourceName]) -> list[str]:
    """Return the names of sources as text."""
    if _is_name(sources):
        return [str(sources)]
    expected = "sources: expected a path, a URL or the index of a camera, or a list of these"
    advice = "; to detect in images that are in memory, call the detector with them"
    # The items of an array or of bytes are its numbers.
    if not isinstance(sources, Iterable) or isinstance(sources, bytes | bytearray) or hasattr(sources, "shape"):
        raise SourceError(f"{expected}, got {type(sources).__name__}{advice}")
    names = list(sources)
    for number, name in enumerate(names):
        if not _is_name(name):
            raise SourceError(f"{expected}, got {type(name).__name__} at [{number}]{advice}")
    return [str(name) for name in names]


def _is_name(source: object) -> bool:
    return isinstance(source, str | os.PathLike | int | np.integer) and not isinstance(source, bool)
