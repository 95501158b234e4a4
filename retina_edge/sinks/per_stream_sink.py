"""A sink that saves the annotated frames of several streams, with a separate sink for each stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from types import TracebackType

from retina_edge.pipeline.result import Result
from retina_edge.sinks.image_sink import ImageSink
from retina_edge.sinks.recording_sink import RecordingSink
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.video_sink import VideoSink
from retina_edge.sources.frames import Source
from retina_edge.sources.image_source import ImageSource


class PerStreamSink(Sink):
    """A sink that opens a separate sink for each stream at its first result, and closes it when the stream ends.

    Args:
        open_sink: callback that returns the sink of a stream, given its name.
    """

    def __init__(self, open_sink: Callable[[str], Sink]) -> None:
        self._open_sink = open_sink
        self._sinks: dict[str, Sink] = {}
        # Protects the sinks and the totals of ended streams, which one thread changes and others read.
        self._lock = threading.Lock()
        self._lost = 0
        self._error: BaseException | None = None

    @property
    def lost(self) -> int:
        with self._lock:
            return self._lost + sum(sink.lost for sink in self._sinks.values())

    @property
    def error(self) -> BaseException | None:
        with self._lock:
            errors = [(sink.failing, error) for sink in self._sinks.values() if (error := sink.error) is not None]
            return max(errors, key=itemgetter(0), default=(False, self._error))[1]

    @property
    def failing(self) -> bool:
        """True if results of any open stream are being lost."""
        with self._lock:
            return any(sink.failing for sink in self._sinks.values())

    def write(self, result: Result) -> None:
        if result.stream not in self._sinks:
            sink = self._open_sink(result.stream).__enter__()
            with self._lock:
                self._sinks[result.stream] = sink
        self._sinks[result.stream].write(result)

    def end(self, stream: str) -> None:
        if stream in self._sinks:
            self._close(stream, None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            for stream in list(self._sinks):
                stack.callback(self._close, stream, kind, error, trace)

    def _close(
        self,
        stream: str,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sink = self._sinks[stream]
        try:
            sink.__exit__(kind, error, trace)
        finally:
            with self._lock:
                del self._sinks[stream]
                self._lost += sink.lost
                self._error = sink.error or self._error
        # List each path once: the images of several streams go to one folder.
        self.written = tuple(dict.fromkeys([*self.written, *sink.written]))


def sink_for_stream(
    save: Path,
    source: Source,
    *,
    name: str,
    live: bool,
    fps: float | None,
    duration: Callable[[], float | None] = lambda: None,
) -> Sink:
    """Return the sink for the annotated frames of a stream: the video ``save`` if it ends in .mp4, else in that folder.

    Args:
        save: path of the video or the folder.
        source: source of the stream; it need not be open.
        name: name of the stream.
        live: True for a live stream, as known from the open source.
        fps: frames per second, as known from the open source; None if unknown.
        duration: called at the end; returns the duration of a file in seconds, None if unknown.

    Examples:
        >>> from retina_edge.sources.opening import open_sources
        >>> (camera,) = open_sources(["0"])
        >>> sink = sink_for_stream(Path("folder"), camera, name="gate", live=True, fps=25)
        >>> type(sink).__name__
        'RecordingSink'
    """
    if save.suffix.lower() == ".mp4":
        return VideoSink(save, fps=fps, duration=duration)
    if isinstance(source, ImageSource):
        return ImageSink(save)
    if live:
        return RecordingSink(save, name, fps=fps)
    return VideoSink(save / source.output_names[0], fps=fps, duration=duration)
