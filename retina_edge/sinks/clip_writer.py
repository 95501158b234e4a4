"""Writes clips as videos, each with its description."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from engines.core.errors import SinkError
from engines.core.file_lock import claim
from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.pipeline.annotation import annotate
from retina_edge.pipeline.result import Result
from retina_edge.sinks.clip_files import PARTIAL_SUFFIX, write_description
from retina_edge.sinks.clip_ring import Clip, ClipFrame
from retina_edge.sinks.video_sink import VideoSink
from retina_edge.sources.frames import Frame
from retina_edge.system.timestamps import utc_iso

logger = logging.getLogger(__name__)


class _Video:
    """A clip that is being written."""

    def __init__(self, path: Path, *, fps: float) -> None:
        self.path = path
        self.began = self.latest = 0.0
        self.frames = 0
        self._partial = path.with_suffix(PARTIAL_SUFFIX)
        self._sink = VideoSink(path, fps=fps, claimed=(self._partial, claim(self._partial)))
        self._size = (0, 0)

    def write(self, frame: ClipFrame) -> None:
        image = annotate(frame.pixels(), frame.detections, tracks=frame.tracks, tallies=frame.tallies)
        if self.frames == 0:
            self._size, self.began = (image.shape[0], image.shape[1]), frame.time
        fitted = _fitted(image, self._size)
        shown = Frame(fitted, self.frames, None, self.path.name, frame.time)
        self._sink.write(Result(shown, Detections.empty((), ()), live=True))
        self.frames, self.latest = self.frames + 1, frame.time

    def finish(self) -> None:
        self._sink.__exit__(None, None, None)

    def discard(self) -> None:
        with suppress(Exception):  # the error that matters is known already
            self._sink.__exit__(SinkError, None, None)
        with suppress(OSError):
            self._partial.unlink()


class ClipWriter:
    """A writer of clips into a folder. Errors are logged and kept in ``error``, and end only the clip.

    Args:
        folder: the folder; it exists.
        fps: frames per second of the clips.

    Attributes:
        finished: number of clips that are complete.
        lost: frames that clips lack.
        error: the latest error; None if there was none.
        failing: True if the latest clip could not be written.
    """

    def __init__(self, folder: Path, *, fps: float) -> None:
        self._folder, self._fps = folder, fps
        self._videos: dict[Clip, _Video] = {}
        # Clips that could not be written, until their end.
        self._failed: set[Clip] = set()
        self.finished = self.lost = 0
        self.error: BaseException | None = None
        self.failing = False

    def write(self, clip: Clip, frames: Sequence[ClipFrame]) -> None:
        """Write the next frames of a clip."""
        if clip in self._failed:
            self.lost += len(frames)
            return
        for index, frame in enumerate(frames):
            try:
                if clip not in self._videos:
                    self._videos[clip] = _Video(self._folder / clip.name, fps=self._fps)
                self._videos[clip].write(frame)
            except Exception as error:
                self.lost += len(frames) - index
                self._fail(clip, error)
                return

    def finish(self, stream: str, clip: Clip) -> None:
        """Give a clip its final name, after its description is written."""
        self.lost += clip.lost
        if clip in self._failed:
            self._failed.remove(clip)
            return
        video = self._videos.get(clip)
        if video is None:
            self._fail(clip, SinkError(f"{clip.name}: no frame of {stream} was kept for the clip; memory is short"))
            self._failed.discard(clip)
            return
        before = clip.first - video.began
        try:
            write_description(
                video.path,
                time=utc_iso(clip.events[0].captured),
                before=before,
                duration=video.latest - video.began,
                lost=clip.lost,
                events=[event.to_dict() for event in clip.events],
            )
            video.finish()
        except Exception as error:
            self.lost += video.frames
            self._fail(clip, error)
            self._failed.discard(clip)
            return
        del self._videos[clip]
        self.finished += 1
        self.failing = False
        if clip.lost:
            logger.warning(
                "%s: begins %.1f s before the event and lacks frames, because memory or time was short",
                video.path,
                before,
            )

    def _fail(self, clip: Clip, error: Exception) -> None:
        logger.error("%s: the clip cannot be written: %s", self._folder / clip.name, error)
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self.error, self.failing = error, True
        self._failed.add(clip)
        if (video := self._videos.pop(clip, None)) is not None:
            video.discard()
        with suppress(OSError):
            (self._folder / clip.name).with_suffix(".json").unlink()


def _fitted(image: BgrImage, size: tuple[int, int]) -> BgrImage:
    """Return an image scaled into a size (height, width), centered on black."""
    if image.shape[:2] == size:
        return image
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    inner = min(size[0], round(image.shape[0] * scale)), min(size[1], round(image.shape[1] * scale))
    inner = max(1, inner[0]), max(1, inner[1])
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    fitted = np.zeros((*size, 3), np.uint8)
    fitted[top : top + inner[0], left : left + inner[1]] = cv2.resize(
        image, (inner[1], inner[0]), interpolation=cv2.INTER_AREA
    )
    return fitted
