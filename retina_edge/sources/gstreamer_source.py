"""GStreamer pipelines and the CSI cameras of a Jetson as sources."""

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
MAX_FLIP = 7

# A pipeline may have to find its server and wait for a key frame before its first frame.
OPEN_SECONDS = 15.0
READ_SECONDS = 5.0
# OpenCV's wait cannot be ended from outside, so it is cut into pieces.
_PIECE_SECONDS = 0.4

_LAUNCH_REMEDY = (
    "sudo apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad"
)
_OPENCV_REMEDY = "an OpenCV built with GStreamer (pip's has none; JetPack's and Debian's python3-opencv have)"

# Read as fast as asked, so nothing of them may be dropped.
_FILE_ELEMENTS = frozenset({"filesrc", "multifilesrc", "splitmuxsrc", "imagesequencesrc", "pushfilesrc", "fdsrc"})
# What tells one camera from another and is no secret; of addresses what redact leaves.
_SHOWN = frozenset({"device", "sensor-id", "location", "uri", "address", "port", "pattern", "num-buffers"})


class _Reader(Protocol):
    """How a pipeline is run."""

    def open(self) -> Caps: ...

    def read(self) -> tuple[BgrImage, float | None]: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class GStreamerSource(Source):
    """A GStreamer pipeline, written as for ``cv2.VideoCapture``, or a CSI camera of a Jetson.

    ``gst:PIPELINE``, or a text with `` ! `` in it that names no file: ``v4l2src device=/dev/video0 !
    video/x-raw,width=1280 ! videoconvert``, with or without ``appsink`` at its end. ``csi://0``, or
    ``csi://0?width=1280&height=720&fps=30&flip=0``, is camera 0 through ``nvarguscamerasrc``; flip is
    ``nvvidconv``'s flip-method.

    An OpenCV with GStreamer runs it, else ``gst-launch-1.0`` in a process of its own, which the source ends. Of a
    live pipeline (any but one that reads files, or ``videotestsrc`` without ``is-live=true``) only the newest frame
    waits. Each frame has the size that the pipeline gives it; it may change. ``interrupt`` ends a read in progress
    within half a second. Passwords in a pipeline are in no message, but other users of the machine can see them in
    its list of processes.

    Args:
        text: as above.
        open_timeout: seconds until a pipeline that gives no first frame is given up.
        read_timeout: seconds until one that gives no next frame is.

    Raises:
        SourceError: at once, for an address of a CSI camera that cannot be meant; on entering, when there is neither
            way to run it, or it ends or fails before its first frame.
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
        """Whether a name on the command line is meant for GStreamer."""
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
            raise SourceError(
                f"{self.name}: running it takes {TOOL} ({_LAUNCH_REMEDY}) or {_OPENCV_REMEDY}; here is neither"
            )
        self._reader = reader
        if self._interrupted.is_set():
            reader.interrupt()
        try:
            caps = reader.open()
        except PipelineEnd as end:
            reader.close()
            raise SourceError(self._no_frame(end)) from None  # its own text may hold a password
        except (OSError, ValueError) as error:
            reader.close()
            raise SourceError(f"{self.name}: it cannot be started ({error}); check the pipeline") from error
        except BaseException:
            reader.close()
            raise
        self.info = SourceInfo(caps.size, caps.fps, None)
        return self

    def __iter__(self) -> Iterator[Frame]:
        if self._reader is None:
            raise ValueError(f"{self.name}: a source gives frames inside its with block only")
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

    def _check_end(self, end: PipelineEnd, read: int) -> None:
        if self._interrupted.is_set():
            return
        if read == 0:
            raise SourceError(self._no_frame(end))
        if self.live or not end.whole:
            self.warnings.append(f"{self.name}: gave no frame after {read}: {self._without_secrets(end.reason)}")

    def _no_frame(self, end: PipelineEnd) -> str:
        return (
            f"{self.name}: gave no frame: {self._without_secrets(end.reason)}; check the pipeline, that the camera is "
            "connected and free, and that the plugin of each element is installed (gst-inspect-1.0 ELEMENT)"
        )

    def _without_secrets(self, text: str) -> str:
        for secret in secrets(self._pipeline):
            text = text.replace(secret, "***")
        return re.sub(r"\w+://\S+", lambda match: redact(match[0]), text)[:500]

    def _queue(self) -> str:
        """Keeps the newest frame of a live pipeline, before the work of converting it."""
        return " ! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0" if self.live else ""

    def _launch_words(self) -> list[str]:
        # gst-launch escapes the spaces inside a word and joins the words by spaces: cut at each space, the text
        # arrives as it was, quotes included.
        return (self._pipeline + self._queue()).split(" ")

    def _opencv_text(self) -> str:
        drop = "drop=true" if self.live else "drop=false"
        return f"{self._pipeline} ! videoconvert ! video/x-raw,format=BGR ! appsink {drop} max-buffers=1 sync=false"


class _LaunchReader:
    """Through ``gst-launch-1.0``."""

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
    """Through an OpenCV built with GStreamer."""

    def __init__(self, text: str, open_timeout: float, read_timeout: float) -> None:
        self._text = text
        self._open_timeout, self._read_timeout = open_timeout, read_timeout
        self._interrupted = False
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> Caps:
        milliseconds = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 1000 * self._open_timeout,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: 1000 * _PIECE_SECONDS,
        }
        parameters = [int(item) for pair in milliseconds.items() for item in pair]
        with quiet_opencv():
            capture = self._capture = cv2.VideoCapture(self._text, cv2.CAP_GSTREAMER, parameters)
        if not capture.isOpened():
            raise PipelineEnd(f"OpenCV cannot run it; {TOOL} -v PIPELINE says more")
        height, width = (int(capture.get(item)) for item in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        fps = capture.get(cv2.CAP_PROP_FPS)
        return Caps((height, width), fps if fps > 0 else None)

    def read(self) -> tuple[BgrImage, float | None]:
        if self._capture is None:
            raise PipelineEnd("it is not open")
        deadline = time.monotonic() + self._read_timeout
        while not self._interrupted:
            start = time.monotonic()
            ok, image = self._capture.read()
            now = time.monotonic()
            if ok:
                return image.astype(np.uint8, copy=False), self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # An end is told at once, an empty wait only after its time.
            if now - start < _PIECE_SECONDS / 2:
                raise PipelineEnd("it ended", whole=True)
            if now > deadline:
                raise PipelineEnd(f"no frame came for {self._read_timeout:g} s")
        raise PipelineEnd("it was interrupted")

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()


def opencv_has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return bool(re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE))


def csi_pipeline(address: str) -> tuple[str, int]:
    """The pipeline of ``csi://N?width=&height=&fps=&flip=``, and N.

    Raises:
        SourceError: another form, a value out of range, another key.
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
            f"not {' '.join(wrong) or address}"
        )
    return (
        f"nvarguscamerasrc sensor-id={int(parts.netloc)} ! video/x-raw(memory:NVMM),width={values['width']},"
        f"height={values['height']},framerate={values['fps']}/1,format=NV12 ! nvvidconv flip-method={values['flip']} "
        "! video/x-raw,format=BGRx"
    ), int(parts.netloc)


def without_appsink(pipeline: str) -> str:
    """A pipeline without its last ``!`` and without ``appsink`` after it.

    Raises:
        SourceError: nothing else in it, or an appsink elsewhere: from there no frame would come.
    """
    text = re.sub(r"(^|!)\s*appsink(\s[^!]*)?$", "", pipeline.strip()).strip().removesuffix("!").strip()
    if not text or re.search(r"(^|!)\s*appsink\b", text):
        raise SourceError(
            f"{PREFIX}{shown_pipeline(pipeline)}: expected a pipeline of GStreamer with at most one appsink, at its "
            "end, for instance gst:v4l2src device=/dev/video0 ! videoconvert"
        )
    return text


def is_live(pipeline: str) -> bool:
    """Whether frames come in their own time: unless it reads a file, or makes pictures as fast as asked."""
    words = pipeline.split()
    if any(word in _FILE_ELEMENTS or word.startswith(("uri=file:", 'uri="file:')) for word in words):
        return False
    return "videotestsrc" not in words or any(
        re.fullmatch(r"is-live=(true|1|yes)", word, re.IGNORECASE) for word in words
    )


def shown_pipeline(pipeline: str) -> str:
    """A pipeline for people: its elements and those properties that are no secret."""
    shown = []
    for word in _words(pipeline):
        key, equals, value = word.partition("=")
        if not equals or "/" in key or "," in key:  # an element, or caps
            shown.append(redact(word))
        elif key in _SHOWN:
            shown.append(f"{key}={redact(value)}")
    return " ".join(shown)


def secrets(pipeline: str) -> list[str]:
    """What is in a pipeline and must be in no message: values of properties that may be passwords, and what
    stands before the @ of addresses; the longest first. A user's name alone may be part of any word."""
    found = set()
    for word in _words(pipeline):
        key, _, value = word.partition("=")
        if is_secret_property(key):
            found.add(value.strip("\"'"))
        for authority in re.findall(r"://(.+)@", word):
            found |= {authority, authority.partition(":")[2]}
    return sorted(found - {""}, key=lambda item: (-len(item), item))


def _words(pipeline: str) -> list[str]:
    """Cut at spaces, but not inside quotes and around an equals sign."""
    text = re.sub(r"\s*=\s*", "=", pipeline)
    return re.findall(r"""(?:"[^"]*"|'[^']*'|\S)+""", text)
