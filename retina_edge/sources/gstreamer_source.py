"""GStreamer pipelines, and CSI cameras of a Jetson, as sources."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np

from engines.core.errors import SourceError
from engines.core.frame_pool import FramePool
from engines.core.letterbox import BgrImage
from retina_edge.imaging.opencv_log import quiet_opencv
from retina_edge.sources.file_clock import FileClock
from retina_edge.sources.frames import DEFAULT_FPS, Frame, Source, SourceInfo, declared_fps
from retina_edge.sources.gst_launch import TOOL, Caps, GstLaunch, PipelineEnd
from retina_edge.sources.pipeline_text import (
    CSI,
    PREFIX,
    csi_pipeline,
    is_live,
    secrets,
    shown_pipeline,
    without_appsink,
)
from retina_edge.system.redaction import redact

# A pipeline may have to find its server and wait for a key frame before its first frame.
OPEN_SECONDS = 15.0
READ_SECONDS = 5.0
# A read of OpenCV cannot be interrupted, so the wait for a frame is split into reads of this timeout.
_POLL_SECONDS = 0.4

# Older ones refuse a pipeline with time limits. gst-launch-1.0 then runs it.
_OPENCV_WITH_LIMITS = (4, 8)
_LAUNCH_REMEDY = (
    "sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad"
)
_OPENCV_REMEDY = "an OpenCV built with GStreamer (JetPack's and Debian's python3-opencv are; pip's is not)"


class _Reader(Protocol):
    """The interface of the two ways to run a pipeline."""

    def open(self) -> Caps: ...

    def read(self, pool: FramePool) -> tuple[BgrImage, float | None]: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class GStreamerSource(Source):
    """A GStreamer pipeline, written as for ``cv2.VideoCapture``, or a CSI camera of a Jetson.

    A pipeline is ``gst:PIPELINE``, or a text with `` ! `` that is not a file name; a final ``appsink`` is optional.
    A CSI camera is ``csi://0``, or ``csi://0?width=1280&height=720&fps=30&flip=0``: camera 0 through
    ``nvarguscamerasrc``, with the flip-method of ``nvvidconv``.

    An OpenCV built with GStreamer runs the pipeline; without one, ``gst-launch-1.0`` runs it in a separate process. A
    pipeline is live, and keeps only the newest frame, unless it reads files, or has a ``videotestsrc`` without
    ``is-live=true``. The frame size may change during a run. ``interrupt`` ends a read in progress within half a
    second. Messages never contain passwords, but the process list shows them to other users.

    Args:
        text: pipeline or camera, as above.
        open_timeout: timeout for the first frame, in seconds.
        read_timeout: timeout for each later frame, in seconds.

    Raises:
        SourceError: at once, if the pipeline or the address of a CSI camera is invalid; on entering, if neither
            OpenCV nor ``gst-launch-1.0`` can run the pipeline, or the pipeline ends or fails before its first frame.
    """

    def __init__(self, text: str, *, open_timeout: float = OPEN_SECONDS, read_timeout: float = READ_SECONDS) -> None:
        super().__init__()
        if text.startswith(CSI):
            self._pipeline, camera = csi_pipeline(text)
            self.name, stem = f"{CSI}{camera}", f"csi{camera}"
        else:
            self._pipeline, stem = without_appsink(text.removeprefix(PREFIX)), "gstreamer"
            self.name = PREFIX + shown_pipeline(self._pipeline)
        self.output_names = (f"{stem}.mp4",)
        self.live = is_live(self._pipeline)
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._reader: _Reader | None = None

    @staticmethod
    def recognizes(name: str) -> bool:
        """True if a name on the command line means a GStreamer pipeline or a CSI camera."""
        return name.startswith((PREFIX, CSI)) or (" ! " in name and not Path(name).exists())

    def interrupt(self) -> None:
        super().interrupt()
        if (reader := self._reader) is not None:
            reader.interrupt()

    def __enter__(self) -> Source:
        if opencv_has_gstreamer():
            reader: _Reader = _OpenCVReader(self._opencv_text(), self._open_timeout, self._read_timeout)
        elif shutil.which(TOOL):
            reader = _LaunchReader(self._launch_words(), self._open_timeout, self._read_timeout)
        else:
            raise SourceError(f"{self.name}: expected {TOOL} ({_LAUNCH_REMEDY}) or {_OPENCV_REMEDY}, found neither")
        self._reader = reader
        if self._interrupted.is_set():
            reader.interrupt()
        try:
            caps = reader.open()
        except PipelineEnd as end:
            reader.close()
            raise SourceError(self._no_frame(end)) from None  # the text of PipelineEnd may contain a password
        except (OSError, ValueError) as error:
            reader.close()
            raise SourceError(f"{self.name}: cannot be started ({error}); check the pipeline") from error
        except BaseException:
            reader.close()
            raise
        self.info = SourceInfo(caps.size, declared_fps(caps.fps), None)
        return self

    def __iter__(self) -> Iterator[Frame]:
        if self._reader is None:
            raise ValueError(f"{self.name}: expected iteration inside the with block of the source")
        start, clock, index = time.monotonic(), FileClock(fps=self.info.fps or DEFAULT_FPS), 0
        while not self._interrupted.is_set():
            try:
                image, position = self._reader.read(self.pool)
            except PipelineEnd as end:
                self._check_end(end, index)
                return
            seconds = time.monotonic() - start if self.live else clock.tick(position)
            yield Frame(image, index, seconds, self.name)
            del image  # a reference here would keep the pool from using the memory again
            index += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    def _check_end(self, end: PipelineEnd, frames: int) -> None:
        if self._interrupted.is_set():
            return
        if frames == 0:
            raise SourceError(self._no_frame(end))
        if self.live or not end.end_of_stream:
            count = f"{frames} frame{'s' if frames > 1 else ''}"
            self.warnings.append(f"{self.name}: ended after {count}: {self._without_secrets(end.reason)}")

    def _no_frame(self, end: PipelineEnd) -> str:
        return (
            f"{self.name}: delivered no frame: {self._without_secrets(end.reason)}; check the pipeline, that the "
            "camera is connected and free, and that the plugin of each element is installed (gst-inspect-1.0 ELEMENT)"
        )

    def _without_secrets(self, text: str) -> str:
        for secret in secrets(self._pipeline):
            text = text.replace(secret, "***")
        return re.sub(r"\w+://\S+", lambda match: redact(match[0]), text)[:500]

    def _queue(self) -> str:
        """Return a queue that drops old frames of a live pipeline before they are converted."""
        return " ! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0" if self.live else ""

    def _launch_words(self) -> list[str]:
        # gst-launch escapes spaces inside words, and joins the words with spaces. Splitting at every space therefore
        # preserves the text, including quotes.
        return (self._pipeline + self._queue()).split(" ")

    def _opencv_text(self) -> str:
        drop = "drop=true" if self.live else "drop=false"
        return f"{self._pipeline} ! videoconvert ! video/x-raw,format=BGR ! appsink {drop} max-buffers=1 sync=false"


class _LaunchReader:
    """A reader that runs the pipeline with ``gst-launch-1.0``."""

    def __init__(self, words: list[str], open_timeout: float, read_timeout: float) -> None:
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._run = GstLaunch(words)
        self.interrupt = self._run.interrupt
        self.close = self._run.close

    def open(self) -> Caps:
        self._run.start()
        return self._run.read_caps(self._open_timeout)

    def read(self, pool: FramePool) -> tuple[BgrImage, float | None]:
        return self._run.read(self._read_timeout, pool)


class _OpenCVReader:
    """A reader that runs the pipeline with an OpenCV built with GStreamer."""

    def __init__(self, text: str, open_timeout: float, read_timeout: float) -> None:
        self._text = text
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._interrupted = False
        self._capture: cv2.VideoCapture | None = None
        # (height, width) of the newest frame, pixels.
        self._size: tuple[int, int] | None = None

    def open(self) -> Caps:
        open_ms, read_ms = int(1000 * self._open_timeout), int(1000 * _POLL_SECONDS)
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        with quiet_opencv():
            capture = self._capture = cv2.VideoCapture(self._text, cv2.CAP_GSTREAMER, parameters)
        if not capture.isOpened():
            raise PipelineEnd(f"OpenCV cannot run the pipeline; {TOOL} -v PIPELINE says more")
        height, width = (int(capture.get(item)) for item in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        fps = capture.get(cv2.CAP_PROP_FPS)
        self._size = (height, width) if height > 0 and width > 0 else None
        return Caps((height, width), fps if fps > 0 else None)

    def read(self, pool: FramePool) -> tuple[BgrImage, float | None]:
        if self._capture is None:
            raise PipelineEnd("the pipeline is not open")
        deadline = time.monotonic() + self._read_timeout
        while not self._interrupted:
            start = time.monotonic()
            ok = self._capture.grab()
            now = time.monotonic()
            if ok:
                ok, image = self._capture.retrieve(pool.take(*self._size) if self._size else None)
            if ok:
                self._size = image.shape[0], image.shape[1]
                return pool.place(image.astype(np.uint8, copy=False)), self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # At the end of the stream a read fails at once; without a frame it fails after its timeout.
            if now - start < _POLL_SECONDS / 2:
                raise PipelineEnd("the pipeline ended", end_of_stream=True)
            if now > deadline:
                raise PipelineEnd(f"no frame arrived for {self._read_timeout:g} s")
        raise PipelineEnd("the pipeline was interrupted")

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()


def opencv_has_gstreamer() -> bool:
    """True if this OpenCV was built with GStreamer, and takes time limits for its pipelines."""
    version = tuple(int(part) for part in re.findall(r"\d+", cv2.__version__)[:2])
    return version >= _OPENCV_WITH_LIMITS and bool(
        re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE)
    )
