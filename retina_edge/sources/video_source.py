"""Videos, cameras and network streams, read by OpenCV."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.imaging.opencv_log import quiet_opencv
from retina_edge.sources.frame_pool import FramePool
from retina_edge.sources.frames import Frame, Source, SourceInfo
from retina_edge.sources.rtsp_probe import wait_for_answer
from retina_edge.system.redaction import redact

# A container's frame count is often an estimate from its duration; one frame less means nothing.
FRAME_COUNT_TOLERANCE = 1
# Streams without a rate of their own report the clock of their packets, such as 90000.
MAX_FPS = 1000.0
# OpenCV's own are 30 s. Opening includes waiting for a key frame.
OPEN_SECONDS = 10.0
READ_SECONDS = 5.0
# For FFmpeg, as OpenCV takes it: TCP where the server gives it, which is OpenCV's own default too, and a rate guessed
# from 5 frames: it would wait for 20, and where their times are odd for 5 s.
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
STREAM_OPTIONS = "rtsp_flags;prefer_tcp|fpsprobesize;5"
# Of a camera's pictures that wait in its driver, so that none is old: one is filled while one is read.
CAMERA_BUFFERS = 2
# OpenCV opens one stream or file of a process at a time, videos that are written included. Of addresses only one waits
# for that, so that a file waits for one that hangs at most, and the others can be interrupted.
_opening = threading.Lock()
_PIECE_SECONDS = 0.2


class VideoSource(Source):
    """A video file, a camera by its index, or a URL.

    RTSP comes over TCP where the server gives it. The first URL opened sets ``OPENCV_FFMPEG_CAPTURE_OPTIONS``, which
    is the process's, to ``STREAM_OPTIONS``, unless the user has set it. ``interrupt`` ends a read in progress with
    the next frame or ``read_timeout``, and the wait for an RTSP server that says nothing within two seconds.

    OpenCV opens one address or file of a process at a time, and a video that is written, too: a server that accepts
    and then hangs holds up whatever else is opened, for ``open_timeout``. One of RTSP that says nothing does not: it is
    asked for a sign of life before.

    Frames keep the size of the first one: where a stream changes its resolution, OpenCV scales the rest to it,
    without a word. A GStreamer pipeline, ``gst:uridecodebin uri=...``, gives the new size.

    Args:
        address: a file, a camera's index, a URL.
        open_timeout: seconds until a URL that does not answer is given up.
        read_timeout: seconds until a stream that sends nothing is given up.

    Raises:
        SourceError: on entering, when no server answers or OpenCV cannot open it; while iterating, when it has no
            frame.
    """

    def __init__(
        self, address: Path | str | int, *, open_timeout: float = OPEN_SECONDS, read_timeout: float = READ_SECONDS
    ) -> None:
        super().__init__()
        self._address = address
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        if isinstance(address, int):
            self.name, stem = f"camera {address}", f"camera{address}"
        elif isinstance(address, Path):
            self.name, stem = str(address), address.stem
        else:
            self.name, stem = redact(address), "stream"
        self.output_names = (f"{stem}.mp4",)
        self.live = not isinstance(address, Path) or (address.exists() and not address.is_file())
        self._by_clock = True

    def __enter__(self) -> Source:
        try:
            target = self._address if isinstance(self._address, int) else opencv_name(self._address)
        except UnicodeEncodeError as error:
            raise SourceError(f"{self.name}: the name is not UTF-8, which OpenCV needs; rename it") from error
        if isinstance(self._address, str) and self._address.startswith("rtsp://"):
            self._wait_for_server(self._address)
        with quiet_opencv():
            self._capture = self._open(target)
        if not self._capture.isOpened() and not self._interrupted.is_set():
            raise SourceError(f"{self.name}: OpenCV cannot open it; {self._advice()}")
        height, width = (int(self._capture.get(item)) for item in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # A URL of a file has its length; a file without one, such as a bare H.264 stream, has no times either.
        self._by_clock = isinstance(self._address, int) or not frames > 0
        if isinstance(self._address, str):
            self.live = self._by_clock
        self.info = SourceInfo(
            (height, width) if height > 0 and width > 0 else None,
            fps if math.isfinite(fps) and 0 < fps <= MAX_FPS else None,
            None if self._by_clock else round(frames),
        )
        return self

    def _wait_for_server(self, address: str) -> None:
        try:
            wait_for_answer(address, seconds=self._open_timeout, given_up=self._interrupted)
        except ValueError:
            return  # what Python takes for no address may be one to FFmpeg
        except OSError as error:
            reason = error.strerror or error
            raise SourceError(f"{self.name}: the server does not answer ({reason}); {self._advice()}") from error

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Waits for it; False where ``interrupt`` came first."""
        while not (got := _opening.acquire(timeout=_PIECE_SECONDS)) and not self._interrupted.is_set():
            pass
        try:
            yield got and not self._interrupted.is_set()
        finally:
            if got:
                _opening.release()

    def _open(self, target: str | int) -> cv2.VideoCapture:
        if isinstance(self._address, str) and cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            os.environ.setdefault(OPTIONS, STREAM_OPTIONS)  # and left: changing it is not safe beside other threads
            timeouts = {
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: self._open_timeout,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC: self._read_timeout,
            }
            parameters = [int(item) for key, seconds in timeouts.items() for item in (key, 1000 * seconds)]
            # FFmpeg's decoder holds a frame back for each of its threads but one.
            parameters += [cv2.CAP_PROP_N_THREADS, 1]
            with self._turn() as mine:
                return cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, parameters) if mine else cv2.VideoCapture()
        capture = cv2.VideoCapture(target)
        if isinstance(self._address, int):
            capture.set(cv2.CAP_PROP_BUFFERSIZE, CAMERA_BUFFERS)
        return capture

    def _advice(self) -> str:
        if not isinstance(self._address, str) and self.live:
            return "check that the camera is connected and no other program uses it"
        if isinstance(self._address, str):
            return "check the address, the credentials and the network"
        return (
            "expected a picture (" + ", ".join(sorted(IMAGE_SUFFIXES)) + ") or a whole video file of a codec "
            "that this OpenCV decodes; retina-edge doctor says whether it has FFMPEG"
        )

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        index, pool = 0, FramePool()
        while not self._interrupted.is_set():
            asked = time.monotonic()
            try:
                with quiet_opencv() if self.live else nullcontext():
                    ok, read = self._capture.read(pool.take())
            except cv2.error as error:
                raise SourceError(f"{self.name}: frame {index} cannot be decoded ({error.err})") from error
            now = time.monotonic()
            # After a wait in vain OpenCV still gives what its decoder held back, a frame for each further wait.
            late = self.live and isinstance(self._address, str) and now - asked >= self._read_timeout
            if not ok or late:
                reason = f"nothing came for {now - asked:.1f} s" if late else "it ended, or its connection was lost"
                self._check_end(index, reason)
                return
            seconds = now - start if self._by_clock else self._position(index)
            image = read.astype(np.uint8, copy=False)
            pool.give(image)
            yield Frame(image, index, seconds, self.name)
            del read, image  # held here, it would never be written into again
            index += 1

    def _position(self, index: int) -> float:
        """Seconds of the frame just read; by its number where the backend does not know."""
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if index == 0 or seconds > 0:
            return max(0.0, seconds)
        return index / self.info.fps if self.info.fps else 0.0

    def _check_end(self, read: int, reason: str) -> None:
        if self._interrupted.is_set():
            return
        if read == 0:
            raise SourceError(f"{self.name}: no frame could be read; {self._advice()}")
        if self.live:
            self.warnings.append(f"{self.name}: gave no frame after {read}: {reason}; {self._advice()}")
        declared = self.info.frames
        if declared is not None and read < declared - FRAME_COUNT_TOLERANCE:
            self.warnings.append(
                f"{self.name}: declares {declared} frames, {read} could be read: truncated or damaged, or its "
                "header only estimates"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()


def opencv_name(address: Path | str) -> str:
    """A video file or URL as ``cv2.VideoCapture`` and ``cv2.VideoWriter`` take it.

    A path becomes absolute: of ``12:30.mp4`` FFmpeg takes "12:" for a protocol.

    Raises:
        UnicodeEncodeError: not UTF-8; OpenCV would end the process.
    """
    name = str(address.absolute()) if isinstance(address, Path) else address
    name.encode()
    return name
