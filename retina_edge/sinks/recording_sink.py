"""A sink that records a live stream in segments, so that an interruption costs at most one segment."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from engines.core.file_lock import claim, is_left
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.video_sink import MAX_STILL_SECONDS, VideoSink

# Length of a segment in seconds.
SEGMENT_SECONDS = 600.0
# Matroska, because the file can be played up to the last second if the process is killed; an MP4 could not be.
SUFFIX, PARTIAL = ".mkv", ".partial.mkv"

logger = logging.getLogger(__name__)


class RecordingSink(Sink):
    """A sink that writes annotated videos, named by stream and start in UTC: ``NAME-20261126T070000Z.mkv``.

    A new video begins every ten minutes, after a gap of more than ten seconds, and when the frame size changes. The
    segment that a killed process has left is kept as a whole one when the sink is entered.

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

    def __enter__(self) -> Sink:
        pattern = re.compile(re.escape(self._name) + r"-\d{8}T\d{6}Z(-\d+)?" + re.escape(PARTIAL))
        with suppress(OSError):  # the folder may not exist yet, and another process may keep the segment
            for file in self._folder.iterdir():
                if pattern.fullmatch(file.name) and is_left(file):
                    self._keep(file)
        return self

    def _keep(self, file: Path) -> None:
        """Give a segment that was left its final name, if no other file has it; remove an empty one."""
        if file.stat().st_size == 0:
            file.unlink()
            return
        whole = file.with_name(f"{file.name.removesuffix(PARTIAL)}{SUFFIX}")
        if whole.exists():
            return
        os.replace(file, whole)
        logger.warning("%s: recovered from a process that was killed", whole)

    def write(self, result: Result) -> None:
        captured, size = result.frame.captured, result.frame.image.shape[:2]
        if self._video is not None and (
            size != self._size
            or captured - self._began >= SEGMENT_SECONDS
            or captured - self._latest > MAX_STILL_SECONDS
        ):
            self._finish()
        if self._video is None:
            path, claimed = self._unused(f"{result.frame.captured_at:%Y%m%dT%H%M%SZ}")
            self._video = VideoSink(path, fps=self._fps, claimed=claimed)
            self._size, self._began = size, captured
        self._latest = captured
        self._video.write(result)

    def _unused(self, moment: str) -> tuple[Path, tuple[Path, BinaryIO]]:
        """Return a path that no other video has, and its partial file with its path, which no other process has."""
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            stem = f"{self._name}-{moment}{'' if number == 1 else f'-{number}'}"
            path, partial = self._folder / f"{stem}{SUFFIX}", self._folder / f"{stem}{PARTIAL}"
            number += 1
            if path.exists():
                continue
            with suppress(FileExistsError):  # also a partial video that stayed after an error
                return path, (partial, claim(partial))

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
