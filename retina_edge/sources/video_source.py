"""Video files, cameras and network streams, read by OpenCV."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.imaging.opencv_log import quiet_opencv
from retina_edge.sources.file_clock import FileClock
from retina_edge.sources.frames import DEFAULT_FPS, Frame, Source, SourceInfo, declared_fps
from retina_edge.sources.rtsp_probe import wait_for_answer
from retina_edge.system.redaction import login_ends_early, redact

# A container's frame count is often an estimate from its duration, so one missing frame is no sign of damage.
FRAME_COUNT_TOLERANCE = 1
# Frames at the start of a file that its rate is measured from, if it declares none.
MEASURED_FRAMES = 50
# What may be missing at the end of a complete file, because its sound or last frame is longer: seconds, or intervals
# like the longest one in the file.
MISSING_SECONDS, MISSING_INTERVALS = 0.1, 2
# OpenCV's own timeouts are 30 s. Opening includes waiting for a key frame.
OPEN_SECONDS = 10.0
READ_SECONDS = 5.0
# Options for FFmpeg. Prefer TCP, as OpenCV does by default. Estimate the rate from 5 frames: by default, FFmpeg waits
# for 20 frames, and for 5 s if their times are irregular.
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
STREAM_OPTIONS = "rtsp_flags;prefer_tcp|fpsprobesize;5"
# Buffers of a camera's driver: one is filled while the other is read. More buffers would deliver older frames.
CAMERA_BUFFERS = 2
# OpenCV opens sources one after another (see ``VideoSource``). This lock lets only one URL wait inside OpenCV. A file
# then waits for at most one server that hangs, and the other URLs can be interrupted while they wait for the lock.
_opening = threading.Lock()
_POLL_SECONDS = 0.2


class VideoSource(Source):
    """A video file, a camera by its index, or a URL.

    RTSP uses TCP if the server offers it. Opening the first URL sets the environment variable
    ``OPENCV_FFMPEG_CAPTURE_OPTIONS`` to ``STREAM_OPTIONS``, unless the user has set the variable. ``interrupt`` ends a
    read in progress with the next frame or after ``read_timeout``, and ends the wait for a silent RTSP server within
    two seconds.

    Within a process, OpenCV opens only one URL or file at a time, including videos to write. A server that accepts a
    connection and then hangs therefore delays everything else that is opened, for up to ``open_timeout``. A silent RTSP
    server does not, because OpenCV opens its URL only after the server has answered a request.

    The times of a file come from the file alone (see ``FileClock``), whatever its header lacks. A regular file is never
    live; a camera is, and so is a URL that declares no length.

    All frames have the size of the first one: if a stream changes its resolution, OpenCV scales later frames without
    notice. A GStreamer pipeline such as ``gst:uridecodebin uri=...`` delivers frames of the new size.

    Args:
        address: path of a file, index of a camera, or URL.
        fps: frames per second of a file, instead of the times in it; None to use these times.
        open_timeout: timeout for a URL to be opened, in seconds.
        read_timeout: timeout for each frame of a URL, in seconds.

    Raises:
        SourceError: on entering, if the server does not answer or OpenCV cannot open the source; while iterating, if
            the source has no frame, or a frame cannot be decoded.

    Examples:
        >>> camera = VideoSource("rtsp://admin:secret@camera/live")
        >>> camera.name, camera.live, camera.output_names
        ('rtsp://***@camera/live', True, ('stream.mp4',))
    """

    def __init__(
        self,
        address: Path | str | int,
        *,
        fps: float | None = None,
        open_timeout: float = OPEN_SECONDS,
        read_timeout: float = READ_SECONDS,
    ) -> None:
        super().__init__()
        self._address = address
        self._fps = fps
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        if isinstance(address, int):
            self.name, stem = f"camera {address}", f"camera{address}"
        elif isinstance(address, Path):
            self.name, stem = str(address), address.stem
        else:
            self.name, stem = redact(address), "stream"
        self.output_names = (f"{stem}.mp4",)
        self.live = not isinstance(address, Path) or (address.exists() and not address.is_file())
        # Seconds that a file declares, from its first frame on; None if it declares none.
        self._declared: float | None = None

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
        fps, frames = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        declared = frames / fps if frames > 0 and fps > 0 else None
        if isinstance(self._address, str):
            self.live = declared is None
        rate = declared_fps(fps)
        if not self.live:
            self._declared = declared
            if rate is None and isinstance(self._address, Path):
                rate = _measured_rate(self._address)
        self.info = SourceInfo(
            (height, width) if height > 0 and width > 0 else None,
            self._fps or rate,
            round(declared * rate) if declared and rate and not self.live else None,
        )
        return self

    def _wait_for_server(self, address: str) -> None:
        try:
            wait_for_answer(address, seconds=self._open_timeout, interrupted=self._interrupted)
        except ValueError as error:
            if login_ends_early(address):
                raise SourceError(f"{self.name}: expected rtsp://USER:PASSWORD@HOST/PATH; {self._advice()}") from error
            # FFmpeg may accept other addresses that Python rejects.
        except OSError as error:
            reason = error.strerror or error
            raise SourceError(f"{self.name}: the server does not answer ({reason}); {self._advice()}") from error

    @contextmanager
    def _opening_turn(self) -> Iterator[bool]:
        """Hold the lock inside the block. Yield True if the source may be opened, False after ``interrupt``."""
        while not (acquired := _opening.acquire(timeout=_POLL_SECONDS)) and not self._interrupted.is_set():
            pass
        try:
            yield acquired and not self._interrupted.is_set()
        finally:
            if acquired:
                _opening.release()

    def _open(self, target: str | int) -> cv2.VideoCapture:
        if isinstance(self._address, str) and cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            os.environ.setdefault(OPTIONS, STREAM_OPTIONS)  # never restored: other threads may read it
            timeouts = {
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: self._open_timeout,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC: self._read_timeout,
            }
            parameters = [int(item) for key, seconds in timeouts.items() for item in (key, 1000 * seconds)]
            # FFmpeg's decoder delays frames by one for each thread after the first.
            parameters += [cv2.CAP_PROP_N_THREADS, 1]
            with self._opening_turn() as may_open:
                return cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, parameters) if may_open else cv2.VideoCapture()
        capture = cv2.VideoCapture(target)
        if isinstance(self._address, int):
            capture.set(cv2.CAP_PROP_BUFFERSIZE, CAMERA_BUFFERS)
        return capture

    def _advice(self) -> str:
        if not isinstance(self._address, str) and self.live:
            return "check that the camera is connected and that no other program uses it"
        if isinstance(self._address, str):
            escapes = "in a user name or password, write # as %23, / as %2F, ? as %3F and @ as %40; "
            hint = escapes if login_ends_early(self._address) else ""
            return f"{hint}check the address, the credentials and the network"
        return (
            "expected an image (" + ", ".join(sorted(IMAGE_SUFFIXES)) + ") or a complete video file with a codec "
            "that this OpenCV decodes; run retina-edge doctor to see if OpenCV has FFmpeg"
        )

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        index, size, clock = 0, self.info.size, FileClock(fps=self.info.fps or DEFAULT_FPS)
        while not self._interrupted.is_set():
            began = time.monotonic()
            try:
                with quiet_opencv() if self.live else nullcontext():
                    # Taken after ``grab``, so that a source that is silent holds no frame.
                    ok, read = (
                        self._capture.retrieve(self.pool.take(*size) if size else None)
                        if self._capture.grab()
                        else (False, None)
                    )
            except cv2.error as error:
                raise SourceError(f"{self.name}: frame {index} cannot be decoded ({error.err})") from error
            now = time.monotonic()
            # After a timeout OpenCV still returns the frames that its decoder held back, one per further timeout.
            late = self.live and isinstance(self._address, str) and now - began >= self._read_timeout
            if not ok or read is None or late:
                reason = (
                    f"nothing arrived for {now - began:.1f} s"
                    if late
                    else "the stream ended or its connection was lost"
                )
                self._end(index, reason, clock)
                return
            seconds = now - start if self.live else self._file_time(index, clock)
            image = self.pool.place(read.astype(np.uint8, copy=False))  # OpenCV may have made an image of its own
            size = image.shape[0], image.shape[1]
            del read
            yield Frame(image, index, seconds, self.name)
            del image  # a reference here would keep the pool from using the memory again
            index += 1

    def _file_time(self, index: int, clock: FileClock) -> float:
        """Return the time of the frame just read from a file, in seconds since its first frame."""
        seconds = clock.tick(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if index == 0 and self._declared is not None:
            # The declared seconds of some containers (Matroska) begin at 0, and not with the first frame. OpenCV before
            # 4.11 does not tell this frame's time. It counts in frames.
            number, fps = self._capture.get(getattr(cv2, "CAP_PROP_PTS", -1)), self._capture.get(cv2.CAP_PROP_FPS)
            self._declared -= number / fps if 0 < number < self._declared * fps else 0.0
        return seconds if self._fps is None else index / self._fps

    def _end(self, frames: int, reason: str, clock: FileClock) -> None:
        """Check the end of the source, and set its duration."""
        if self._interrupted.is_set():
            return
        if frames == 0:
            raise SourceError(f"{self.name}: no frame could be read; {self._advice()}")
        if self.live:
            count = f"{frames} frame{'s' if frames > 1 else ''}"
            self.warnings.append(f"{self.name}: ended after {count}: {reason}; {self._advice()}")
            return
        interval = 1 / (self.info.fps or DEFAULT_FPS)
        declared = self.info.frames
        # The last frame is shown until the declared end.
        rest = interval if self._declared is None else self._declared - clock.time
        if (
            declared is not None
            and frames < declared - FRAME_COUNT_TOLERANCE
            and rest > max(MISSING_SECONDS, MISSING_INTERVALS * interval, MISSING_INTERVALS * clock.longest)
        ):
            self.warnings.append(
                f"{self.name}: declares {declared} frames, {frames} could be read; the file is truncated or damaged, "
                "or its header is only an estimate"
            )
            rest = interval
        duration = clock.time + (rest if rest > 0 else interval)
        self.info = replace(self.info, duration=duration if self._fps is None else frames / self._fps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.release()


def _measured_rate(path: Path) -> float | None:
    """Return the average rate of a file's first frames; None if they have no times."""
    with quiet_opencv():
        capture = cv2.VideoCapture(opencv_name(path))
    clock, frames = FileClock(fps=DEFAULT_FPS), 0
    while frames < MEASURED_FRAMES and capture.grab():
        clock.tick(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        frames += 1
    capture.release()
    return round((frames - 1) / clock.time, 3) if clock.time > 0 else None


def opencv_name(address: Path | str) -> str:
    """Return the name of a video file or URL for ``cv2.VideoCapture`` and ``cv2.VideoWriter``.

    Paths become absolute, because FFmpeg would take the "12:" of ``12:30.mp4`` for a protocol.

    Raises:
        UnicodeEncodeError: if the name is not UTF-8, because OpenCV would crash the process.

    Examples:
        >>> opencv_name("rtsp://camera/live"), Path(opencv_name(Path("12:30.mp4"))).is_absolute()
        ('rtsp://camera/live', True)
    """
    name = str(address.absolute()) if isinstance(address, Path) else address
    name.encode()
    return name
