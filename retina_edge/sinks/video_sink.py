"""A sink that writes an annotated video."""

from __future__ import annotations

import errno
import glob
import logging
import math
import os
import secrets
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import cv2
import numpy as np

from engines.core.errors import SinkError
from engines.core.file_lock import claim, is_left
from engines.core.letterbox import BgrImage
from retina_edge.imaging.opencv_log import quiet_opencv
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink
from retina_edge.sources.frames import DEFAULT_FPS
from retina_edge.sources.video_source import opencv_name

# mp4v first: every OpenCV with FFmpeg has it, while H.264 needs a library that most builds lack.
CODECS = ("mp4v", "avc1")
# For WebM, VP8: browsers play it, and of the codecs that browsers play it is the only one that every OpenCV with FFmpeg
# writes at a bearable cost. On one core, a frame of 960x544 pixels takes about 40 ms in VP8, and 340 ms in VP9.
WEBM_CODECS = ("VP80",)
# Range of the rate of a video, in frames per second; players handle other rates badly.
MIN_FPS, MAX_FPS = 0.1, 1000.0
# OpenCV writes a rate as a decimal fraction with this error. MPEG-4 has 16 bits for the numerator.
RATE_ERROR, MAX_NUMERATOR = 0.001, 2**16 - 1
# Longest time, in seconds, that the video of a live stream repeats a frame while no new frame arrives.
MAX_STILL_SECONDS = 10.0
# The same for the video of a file. A longer gap is a wrong time in the file.
MAX_GAP_SECONDS = 3600.0
# Disk space kept free for the index of a video. The index is written last, and a video cannot be played without it.
# OpenCV would not report that it could not be written.
RESERVED_BYTES = 16 * 2**20

# The element DocType of a Matroska file; the same of WebM, followed by an empty element that fills the space (Void).
_MATROSKA, _WEBM = b"\x42\x82\x88matroska", b"\x42\x82\x84webm\xec\x82\0\0"

logger = logging.getLogger(__name__)


class VideoSink(Sink):
    """A sink that writes an annotated MP4 in the size of the frames. An odd width or height grows by one pixel.

    FFmpeg would cut off the last row or column of an odd size, because the color planes of a video have half the size.
    This sink repeats the row or column instead. The file is written as ``NAME.0123456789abcdef.partial.mp4``, with
    random digits, and renamed at the end. After an error, the partial file stays and can be played up to the error; the
    next video of this name removes it. A process that is killed leaves a partial MP4 without an index, which cannot be
    played; a Matroska file (``.mkv``) can be, up to the last second. A disk with less than ``RESERVED_BYTES`` bytes of
    free space counts as full, which is an error.

    The rate of the video is constant, and its frames are chosen by time: each one shows the newest frame of the source
    whose time is not more than half an interval later. A frame is repeated until the next one is due, and of several
    frames within an interval only the last is written, so that the video plays as long as its source. The time of a
    file's frame is that in the file; the time of a live stream's frame is that of its capture.

    Args:
        path: path of the video, ending in .mp4 or .mkv; an older file is overwritten at the end. For WebM, ending in
            .webm, the partial file must be claimed and end in .mkv.
        fps: frames per second; None for 25.
        duration: called at the end; returns the seconds from the first frame of the source to the end of its last one,
            or None if the last frame lasts one interval.
        claimed: path of the partial file and the file, if it was claimed already.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from retina_edge import Detections
        >>> from retina_edge.sources.frames import Frame
        >>> frame = Frame(np.zeros((48, 64, 3), np.uint8), index=0, timestamp=0.0, name="yard.mp4")
        >>> with TemporaryDirectory() as folder, VideoSink(Path(folder) / "out.mp4", fps=25) as sink:
        ...     sink.write(Result(frame, Detections.empty(["tree"], [1])))
        >>> [path.name for path in sink.written]
        ['out.mp4']
    """

    # A second file would lack the beginning and still look complete.
    resumable = False

    def __init__(
        self,
        path: Path,
        *,
        fps: float | None,
        duration: Callable[[], float | None] = lambda: None,
        claimed: tuple[Path, BinaryIO] | None = None,
    ) -> None:
        self.path = path
        self.frames = 0
        self._partial: Path
        self._claimed: BinaryIO | None
        self._partial, self._claimed = claimed or (random_partial_path(path), None)
        self._fps = written_rate(fps or DEFAULT_FPS)
        self._duration = duration
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        # Time of the first frame; the newest frame, its number in the video, and the number of frames before it there.
        self._began = 0.0
        self._newest: BgrImage | None = None
        self._number = 0
        self._written = 0

    def write(self, result: Result) -> None:
        frame, image = result.frame, result.annotated
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._check_space()
        time = frame.captured if result.live else frame.seconds
        if self._writer is None:
            self._writer, self._size = self._open((size[0] + size[0] % 2, size[1] + size[1] % 2)), size
            self._began = time
        # OpenCV silently drops frames of another size.
        if size != self._size:
            raise SinkError(
                f"{self.path}: expected frames of {self._size[0]}x{self._size[1]} pixels, got {size[0]}x{size[1]} in "
                f"frame {frame.index} of {frame.name}; save a camera to a folder, or scale a file with a GStreamer "
                f"pipeline: videoscale ! video/x-raw,width={self._size[0]},height={self._size[1]}"
            )
        number = max(self._number, self._number_at(time))
        gap = (number - self._number) / self._fps
        if not result.live and gap > MAX_GAP_SECONDS:
            logger.warning("%s: shows %g s of a gap of %.0f s in %s", self.path, MAX_GAP_SECONDS, gap, frame.name)
        self._show_until(number, longest=MAX_STILL_SECONDS if result.live else MAX_GAP_SECONDS)
        self._newest, self._number = _padded_to_even(image), number
        self.frames += 1

    def _number_at(self, time: float) -> int:
        """Return the number of the video's frame that is nearest to a time of the source."""
        return math.floor((time - self._began) * self._fps + 0.5)

    def _show_until(self, number: int, *, longest: float) -> None:
        """Write the newest frame, if there is one, until the video has ``number`` frames.

        It is repeated for at most ``longest`` seconds. If that is not enough, the frames count as if they were written.
        """
        if self._writer is None or self._newest is None:
            return
        for repetition in range(min(number - self._written, 1 + round(longest * self._fps))):
            if repetition:
                self._check_space()
            with quiet_opencv():
                self._writer.write(self._newest)
        self._written = max(self._written, number)

    def _check_space(self) -> None:
        if shutil.disk_usage(self.path.parent).free < RESERVED_BYTES:
            reason = f"{os.strerror(errno.ENOSPC)} (the rest is reserved for the video's index)"
            raise OSError(errno.ENOSPC, reason, str(self._partial))

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        try:
            name = opencv_name(self._partial)
        except UnicodeEncodeError as error:
            raise SinkError(f"{self.path}: the name is not UTF-8, which OpenCV needs; use another name") from error
        if self._claimed is None:
            self._claimed = claim(self._partial)
            self._remove_earlier()
        codecs = WEBM_CODECS if self.path.suffix == ".webm" else CODECS
        for codec in codecs:
            with quiet_opencv():
                writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*codec), self._fps, size, isColor=True)
            if writer.isOpened():
                return writer
        self._partial.unlink()
        self._release()
        raise SinkError(
            f"{self.path}: this OpenCV cannot write {size[0]}x{size[1]} pixels at {self._fps:g} frames per second with "
            f"any of {', '.join(codecs)}; check with retina-edge doctor whether OpenCV has FFmpeg"
        )

    def _remove_earlier(self) -> None:
        """Remove what earlier processes have left of this video. If another process still writes it, raise an error."""
        for file in partial_files(self.path):
            if file == self._partial:
                continue
            if not is_left(file):
                raise SinkError(f"{self.path}: another process writes this video; end it, or use another name")
            file.unlink()

    def _release(self) -> None:
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            if self._claimed is not None:  # no frame was written
                self._partial.unlink(missing_ok=True)
                self._release()
            return
        try:
            self._finish(kind)
        finally:
            self._release()

    def _finish(self, kind: type[BaseException] | None) -> None:
        assert self._writer is not None
        duration = self._duration() if kind is None else None
        end = self._number + 1 if duration is None else max(self._number + 1, self._number_at(duration))
        try:
            self._show_until(end, longest=MAX_GAP_SECONDS)
        finally:
            with quiet_opencv():
                self._writer.release()
            self._writer = None
        # Ctrl-C is the usual end of a camera's video, so the video is complete.
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self._publish()
        else:
            logger.warning(
                "%s: incomplete because of an error; %d frames are in %s", self.path, self.frames, self._partial
            )

    def _publish(self) -> None:
        # OpenCV does not report a failed write. Opening the video would reveal one, but OpenCV opens one source at a
        # time, and a camera that hangs would hold up this sink.
        if self.path.suffix.lower() == ".mp4" and not _has_index(self._partial):
            raise SinkError(f"{self._partial}: the video is cut off and cannot be played; check the space on the disk")
        if self.path.suffix == ".webm":
            _declare_webm(self._partial)
        os.replace(self._partial, self.path)
        self.written = (self.path,)


def written_rate(fps: float) -> float:
    """Return the rate of the video that OpenCV writes for a rate from ``MIN_FPS`` to ``MAX_FPS``; others are limited.

    Examples:
        >>> written_rate(25), written_rate(30000 / 1001), written_rate(0.001)
        (25.0, 29.97, 0.1)
    """
    fps, base = min(max(fps, MIN_FPS), MAX_FPS), 1
    # As in OpenCV (modules/videoio/src/cap_ffmpeg_impl.hpp), which would not round a numerator that is too large.
    while abs(int(fps * base + 0.5) / base - fps) > RATE_ERROR and fps * base * 10 <= MAX_NUMERATOR:
        base *= 10
    rate = int(fps * base + 0.5) / base
    return rate if rate == fps else written_rate(rate)


def random_partial_path(path: Path) -> Path:
    """Return a path for a video while it is incomplete, which no other file has.

    Examples:
        >>> len(random_partial_path(Path("yard.mp4")).name) == len("yard.0123456789abcdef.partial.mp4")
        True
    """
    return path.with_suffix(f".{secrets.token_hex(8)}.partial{path.suffix}")


def partial_files(path: Path) -> list[Path]:
    """Return the incomplete files of a video, from this and other processes. Links are left out.

    Examples:
        >>> partial_files(Path("missing/yard.mp4"))
        []
    """
    pattern = f"{glob.escape(path.stem)}.{16 * '[0-9a-f]'}.partial{glob.escape(path.suffix)}"
    return [file for file in path.parent.glob(pattern) if file.is_file() and not file.is_symlink()]


def _has_index(path: Path) -> bool:
    """True if an MP4 has a complete index: the box ``moov``, which is written last (ISO/IEC 14496-12, 4.2)."""
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


def _declare_webm(path: Path) -> None:
    """Change the document type of a Matroska file with VP8 to WebM, its subset (RFC 9559, 7.1; RFC 8794, 11.2).

    OpenCV writes WebM too, but then prints a line on stderr for each file, which nothing can silence.
    """
    with path.open("r+b") as file:
        begin = file.read(64).find(_MATROSKA)
        if begin < 0:
            raise SinkError(f"{path}: expected a Matroska file, got something else; check the space on the disk")
        file.seek(begin)
        file.write(_WEBM)


def _padded_to_even(image: BgrImage) -> BgrImage:
    """Return the image with its last row or column repeated if their number is odd."""
    bottom, right = image.shape[0] % 2, image.shape[1] % 2
    if not bottom and not right:
        return image
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
