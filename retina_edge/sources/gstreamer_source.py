"""GStreamer pipelines, and CSI cameras of a Jetson, as sources."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

import cv2
import numpy as np

from engines.core.errors import SourceError
from engines.core.letterbox import BgrImage
from retina_edge.imaging.opencv_log import quiet_opencv
from retina_edge.sources.frames import Frame, Source, SourceInfo
from retina_edge.sources.gst_launch import TOOL, Caps, GstLaunch, PipelineEnd
from retina_edge.system.redaction import is_secret_property, redact

PREFIX = "gst:"
CSI = "csi://"
CSI_DEFAULTS = {"width": 1280, "height": 720, "fps": 30, "flip": 0}
MAX_FLIP = 7  # flip-method of nvvidconv

# A pipeline may have to find its server and wait for a key frame before its first frame.
OPEN_SECONDS = 15.0
READ_SECONDS = 5.0
# A read of OpenCV cannot be interrupted, so the wait for a frame is split into reads of this timeout.
_POLL_SECONDS = 0.4

_LAUNCH_REMEDY = (
    "sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad"
)
_OPENCV_REMEDY = "an OpenCV built with GStreamer (JetPack's and Debian's python3-opencv are; pip's is not)"

# Elements that read files. They deliver frames as fast as the reader takes them, so no frame may be dropped.
_FILE_ELEMENTS = frozenset({"filesrc", "multifilesrc", "splitmuxsrc", "imagesequencesrc", "pushfilesrc", "fdsrc"})
# Properties to show, because they distinguish cameras and are not secret. Addresses in them are redacted.
_SHOWN = frozenset({"device", "sensor-id", "location", "uri", "address", "port", "pattern", "num-buffers"})


class _Reader(Protocol):
    """The interface of the two ways to run a pipeline."""

    def open(self) -> Caps: ...

    def read(self) -> tuple[BgrImage, float | None]: ...

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
        self.info = SourceInfo(caps.size, caps.fps, None)
        return self

    def __iter__(self) -> Iterator[Frame]:
        if self._reader is None:
            raise ValueError(f"{self.name}: expected iteration inside the with block of the source")
        start, first, index = time.monotonic(), None, 0
        while not self._interrupted.is_set():
            try:
                image, seconds = self._reader.read()
            except PipelineEnd as end:
                self._check_end(end, index)
                return
            if self.live:
                seconds = time.monotonic() - start
            elif seconds is None:
                seconds = index / self.info.fps if self.info.fps else 0.0
            else:
                first = seconds if first is None else first
                seconds = max(0.0, seconds - first)
            yield Frame(image, index, seconds, self.name)
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

    def read(self) -> tuple[BgrImage, float | None]:
        return self._run.read(self._read_timeout)


class _OpenCVReader:
    """A reader that runs the pipeline with an OpenCV built with GStreamer."""

    def __init__(self, text: str, open_timeout: float, read_timeout: float) -> None:
        self._text = text
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._interrupted = False
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> Caps:
        open_ms, read_ms = int(1000 * self._open_timeout), int(1000 * _POLL_SECONDS)
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_ms]
        with quiet_opencv():
            capture = self._capture = cv2.VideoCapture(self._text, cv2.CAP_GSTREAMER, parameters)
        if not capture.isOpened():
            raise PipelineEnd(f"OpenCV cannot run the pipeline; {TOOL} -v PIPELINE says more")
        height, width = (int(capture.get(item)) for item in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        fps = capture.get(cv2.CAP_PROP_FPS)
        return Caps((height, width), fps if fps > 0 else None)

    def read(self) -> tuple[BgrImage, float | None]:
        if self._capture is None:
            raise PipelineEnd("the pipeline is not open")
        deadline = time.monotonic() + self._read_timeout
        while not self._interrupted:
            start = time.monotonic()
            ok, image = self._capture.read()
            now = time.monotonic()
            if ok:
                return image.astype(np.uint8, copy=False), self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
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
    """True if this OpenCV was built with GStreamer."""
    return bool(re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE))


def csi_pipeline(address: str) -> tuple[str, int]:
    """Return the pipeline for ``csi://N?width=&height=&fps=&flip=``, and the number N of the camera.

    Raises:
        SourceError: if the address has another form, an unknown key, or a value out of range.
    """
    parts = urlsplit(address)
    values = dict(CSI_DEFAULTS)
    wrong = [parts.path.strip("/")] if parts.path.strip("/") or not parts.netloc.isdecimal() else []
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        least, most = (0, MAX_FLIP) if key == "flip" else (1, 2**15)
        if key not in values or not (value.isdecimal() and least <= int(value) <= most):
            wrong.append(f"{key}={value}")
        else:
            values[key] = int(value)
    if wrong:
        raise SourceError(
            f"{address}: expected csi://NUMBER?width=1280&height=720&fps=30&flip=0 with flip from 0 to {MAX_FLIP}, "
            f"got {' '.join(wrong) or address}"
        )
    return (
        f"nvarguscamerasrc sensor-id={int(parts.netloc)} ! video/x-raw(memory:NVMM),width={values['width']},"
        f"height={values['height']},framerate={values['fps']}/1,format=NV12 ! nvvidconv flip-method={values['flip']} "
        "! video/x-raw,format=BGRx"
    ), int(parts.netloc)


def without_appsink(pipeline: str) -> str:
    """Return a pipeline without the ``appsink`` at its end, and without the ``!`` before it.

    Raises:
        SourceError: if nothing is left, or an appsink is elsewhere, so that no frame would arrive.

    Examples:
        >>> without_appsink("videotestsrc ! videoconvert ! appsink drop=1")
        'videotestsrc ! videoconvert'
    """
    text = re.sub(r"(^|!)\s*appsink(\s[^!]*)?$", "", pipeline.strip()).strip().removesuffix("!").strip()
    if not text or re.search(r"(^|!)\s*appsink\b", text):
        raise SourceError(
            f"{PREFIX}{shown_pipeline(pipeline)}: expected a GStreamer pipeline with at most one appsink, at its end, "
            "for instance gst:v4l2src device=/dev/video0 ! videoconvert"
        )
    return text


def is_live(pipeline: str) -> bool:
    """True if a pipeline delivers frames in real time, instead of as fast as the reader takes them.

    Examples:
        >>> is_live("v4l2src device=/dev/video0"), is_live("filesrc location=a.mp4 ! decodebin")
        (True, False)
    """
    words = pipeline.split()
    if any(word in _FILE_ELEMENTS or word.startswith(("uri=file:", 'uri="file:')) for word in words):
        return False
    return "videotestsrc" not in words or any(re.fullmatch(r"is-live=(true|1|yes)", word, re.I) for word in words)


def shown_pipeline(pipeline: str) -> str:
    """Return a pipeline for messages: its elements, and the properties that are not secret.

    Examples:
        >>> shown_pipeline("rtspsrc location=rtsp://me:secret@camera/x user-pw=secret ! decodebin")
        'rtspsrc location=rtsp://***@camera/x ! decodebin'
    """
    shown = []
    for word in _words(pipeline):
        key, equals, value = word.partition("=")
        if not equals or "/" in key or "," in key:  # an element, or caps
            shown.append(redact(word))
        elif key in _SHOWN:
            shown.append(f"{key}={redact(value)}")
    return " ".join(shown)


def secrets(pipeline: str) -> list[str]:
    """Return the secret property values and the logins of a pipeline, the longest first, to hide them in messages.

    A user name without a password is not included, because it may be part of any word.
    """
    texts = set()
    for word in _words(pipeline):
        key, _, value = word.partition("=")
        if is_secret_property(key):
            texts.add(value.strip("\"'"))
        for authority in re.findall(r"://(.+)@", word):
            texts |= {authority, authority.partition(":")[2]}
    return sorted(texts - {""}, key=lambda item: (-len(item), item))


def _words(pipeline: str) -> list[str]:
    """Split a pipeline at spaces, except inside quotes and around an equals sign."""
    text = re.sub(r"\s*=\s*", "=", pipeline)
    return re.findall(r"""(?:"[^"]*"|'[^']*'|\S)+""", text)
