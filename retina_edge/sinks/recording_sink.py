"""A sink that records a live stream in segments, so that an interruption costs at most one segment."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.video_sink import MAX_STILL_SECONDS, VideoSink, partial_path

# Length of a segment in seconds. A power cut costs the current segment.
SEGMENT_SECONDS = 600.0


class RecordingSink(Sink):
    """A sink that writes annotated videos, named by stream and start in UTC: ``NAME-20261126T070000Z.mp4``.

    A new video begins every ten minutes, after a gap of more than ten seconds, and when the frame size changes.

    Args:
        folder: path of the folder; created if it does not exist.
        name: name of the stream.
        fps: frames per second of the videos; None for 25.
    """

    def __init__(self, folder: Path, name: str, *, fps: float | None) -> None:
        self._folder, self._name, self._fps = folder, name, fps
        self._video: VideoSink | None = None
        self._size = (0, 0)
        self._began = self._latest = 0.0

    def write(self, result: Result) -> None:
        captured, size = result.frame.captured, result.frame.image.shape[:2]
        if self._video is not None and (
            size != self._size
            or captured - self._began >= SEGMENT_SECONDS
            or captured - self._latest > MAX_STILL_SECONDS
        ):
            self._finish()
        if self._video is None:
            self._video = VideoSink(self._unused(f"{result.frame.captured_at:%Y%m%dT%H%M%SZ}"), fps=self._fps)
            self._size, self._began = size, captured
        self._latest = captured
        self._video.write(result)

    def _unused(self, moment: str) -> Path:
        path, number = self._folder / f"{self._name}-{moment}.mp4", 2
        while path.exists() or partial_path(path).exists():  # a partial video stays after an error
            path, number = self._folder / f"{self._name}-{moment}-{number}.mp4", number + 1
        return path

    def _finish(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.__exit__(kind, error, trace)
            self.written = (self._folder,)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(kind, error, trace)
