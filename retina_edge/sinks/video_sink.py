"""An annotated video."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import struct
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from engines.core.errors import SinkError
from engines.core.letterbox import BgrImage
from retina_edge.imaging.opencv_log import quiet_opencv
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink
from retina_edge.sources.video_source import opencv_name

# mp4v first: every OpenCV with FFMPEG has it; H.264 needs a library that most builds lack.
CODECS = ("mp4v", "avc1")
# For cameras that do not say their rate.
DEFAULT_FPS = 25.0
# Seconds that a picture stands in the video of a live stream while nothing comes.
MAX_STILL_SECONDS = 10.0
# Bytes left on the disk for the index of a video, which is written last: without it nothing of it can be played. And
# OpenCV does not report a failed write.
RESERVED_BYTES = 16 * 2**20

logger = logging.getLogger(__name__)


class VideoSink(Sink):
    """An annotated MP4 of the frames' size, where that is odd one pixel more.

    Its color planes have half the size, so FFmpeg writes even sizes only and would cut the last row or column:
    here it is doubled instead. The file is written as ``NAME.partial.mp4`` and takes its name at the end; after an
    error it stays under that name, playable as far as it goes; a full disk is one while ``RESERVED_BYTES`` bytes are
    left.

    Of a live stream, whose results come in their own time, the video keeps to that time: a picture is shown until the
    next one is due, and what comes faster than ``fps`` is left out.

    Args:
        path: the file to write, ending in .mp4; an older one is replaced at the end.
        fps: frames a second.
    """

    resumable = False  # without its beginning it would pass for whole

    def __init__(self, path: Path, *, fps: float | None) -> None:
        self.path = path
        self.frames = 0
        self._partial = partial_path(path)
        self._fps = fps or DEFAULT_FPS
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        # Of a live stream: when it began, pictures in the file, and the last of them.
        self._began = 0.0
        self._shown = 0
        self._last: BgrImage | None = None

    def write(self, result: Result) -> None:
        frame, picture = result.frame, result.annotated
        size = (picture.shape[1], picture.shape[0])
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.path.parent).free < RESERVED_BYTES:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, but for the video's index", str(self._partial))
        if self._writer is None:
            self._writer, self._size = self._open((size[0] + size[0] % 2, size[1] + size[1] % 2)), size
            self._began = frame.captured
        # OpenCV drops a frame of another size without a word.
        if size != self._size:
            raise SinkError(
                f"{self.path}: expected frames of {self._size[0]}x{self._size[1]} pixels, frame {frame.index} of "
                f"{frame.name} has {size[0]}x{size[1]}; save a camera to a folder, and let the GStreamer "
                f"pipeline of a file scale: videoscale ! video/x-raw,width={self._size[0]},height={self._size[1]}"
            )
        self.frames += 1
        picture = _padded_to_even(picture)
        if not result.live:
            self._add(picture)
            return
        due = round((frame.captured - self._began) * self._fps)
        for _ in range(min(due - self._shown, round(MAX_STILL_SECONDS * self._fps))):
            self._add(self._last if self._last is not None else picture)
        self._shown = max(self._shown, due)  # after a longer gap the video goes on as if it had been so long
        if due == self._shown:
            self._add(picture)
            self._shown += 1
        self._last = picture

    def _add(self, picture: BgrImage) -> None:
        assert self._writer is not None
        with quiet_opencv():
            self._writer.write(picture)

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        try:
            name = opencv_name(self._partial)
        except UnicodeEncodeError as error:
            raise SinkError(f"{self.path}: the name is not UTF-8, which OpenCV needs; give another") from error
        self._partial.touch()  # an unwritable folder is an OSError that says so
        for codec in CODECS:
            with quiet_opencv():
                writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*codec), self._fps, size, isColor=True)
            if writer.isOpened():
                return writer
        self._partial.unlink()
        raise SinkError(
            f"{self.path}: this OpenCV can write {size[0]}x{size[1]} pixels at {self._fps:g} frames a second with "
            f"none of {', '.join(CODECS)}; retina-edge doctor says whether it has FFMPEG, and a folder works always"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        with quiet_opencv():
            self._writer.release()
        self._writer = None
        # Ctrl-C is how a camera's recording ends: what was written is whole.
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self._publish()
        else:
            logger.warning("%s: not completed; %d frames are in %s", self.path, self.frames, self._partial)

    def _publish(self) -> None:
        # OpenCV does not report a failed write. Opening the video would show it, but has to wait while OpenCV opens a
        # camera that hangs.
        if not _has_index(self._partial):
            raise SinkError(f"{self._partial}: the video cannot be played, it has no end; is there space on the disk?")
        os.replace(self._partial, self.path)
        self.written = (self.path,)


def partial_path(path: Path) -> Path:
    """Where a video lies until it is whole."""
    return path.with_suffix(".partial.mp4")


def _has_index(path: Path) -> bool:
    """Whether an MP4 has its index, which is written last, whole: ``moov`` among its boxes (ISO/IEC 14496-12, 4.2)."""
    start, end = 0, path.stat().st_size
    with path.open("rb") as file:
        while start + 16 <= end:
            file.seek(start)
            short, kind, long = struct.unpack(">I4sQ", file.read(16))
            size: int = long if short == 1 else short
            if kind == b"moov" or size < 8:
                return kind == b"moov" and start + size <= end
            start += size
    return False


def _padded_to_even(picture: BgrImage) -> BgrImage:
    """The picture with its last row and column doubled where their number is odd."""
    bottom, right = picture.shape[0] % 2, picture.shape[1] % 2
    if not bottom and not right:
        return picture
    return cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
