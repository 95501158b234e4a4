"""Where results go: a video, a folder of pictures, JSON lines, a window. Each is a context manager."""

from __future__ import annotations

import logging
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.quiet import quiet_opencv
from retina_edge.streams.counting import Tally
from retina_edge.streams.draw import annotate
from retina_edge.streams.events import Event
from retina_edge.streams.frames import captured_at, iso
from retina_edge.streams.sources import Frame, ImageSource, Source, opencv_name, saved_name
from retina_edge.streams.tracking import Tracks

Picture = npt.NDArray[np.uint8]

# mp4v first: every OpenCV with FFMPEG has it; H.264 needs a library that most builds lack.
CODECS = ("mp4v", "avc1")
# For cameras that do not say their rate.
DEFAULT_FPS = 25.0
KEY_ESCAPE = 27

logger = logging.getLogger(__name__)


class SinkError(RetinaEdgeError):
    """Results cannot be written or shown."""


@dataclass(frozen=True, eq=False)
class Result:
    """A frame and what was found in it.

    Attributes:
        frame: as read.
        detections: in frame pixels.
        stream: its name among several; empty where there is one.
        age_at_inference: seconds from its capture until the detector began with it; None where nobody measures.
        age_at_output: seconds from its capture until the detections were there.
        tracks: int64 [N], the detections' ids in their stream; None where nobody follows them.
        events: what happened in the frame.
        tallies: of the stream's zones and lines.
    """

    frame: Frame
    detections: Detections
    stream: str = ""
    age_at_inference: float | None = None
    age_at_output: float | None = None
    tracks: Tracks | None = None
    events: tuple[Event, ...] = ()
    tallies: tuple[Tally, ...] = ()

    @cached_property
    def picture(self) -> Picture:
        """uint8 [height, width, 3], BGR, annotated; drawn when the first sink asks. Not to be written into: all share
        it, and where nothing was found it is the frame's own image."""
        if not len(self.detections) and not self.tallies:
            return self.frame.image
        return annotate(self.frame.image, self.detections, tracks=self.tracks, tallies=self.tallies)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: boxes xyxy in frame pixels; of a stream among several its name, times in UTC, ages in seconds."""
        frame, found = self.frame, self.detections
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.names, strict=True)
        detections = [
            {"box": [round(side, 2) for side in box], "score": round(score, 4), "label": label, "name": name}
            for box, score, label, name in rows
        ]
        if self.tracks is not None:
            for row, track in zip(detections, self.tracks.tolist(), strict=True):
                row["track"] = track
        record: dict[str, Any] = {
            "frame": frame.index,
            "timestamp": None if frame.timestamp is None else round(frame.timestamp, 6),
            "source": frame.name,
            "detections": detections,
        }
        if self.stream:
            record |= {
                "stream": self.stream,
                "captured": iso(captured_at(frame)),
                "age_at_inference": _rounded(self.age_at_inference),
                "age_at_output": _rounded(self.age_at_output),
                "width": frame.image.shape[1],
                "height": frame.image.shape[0],
                "regions": {tally.region.name: tally.counts for tally in self.tallies},
            }
        return record


class Sink(ABC):
    """Takes results in order, from one thread at a time, inside its ``with`` block.

    Attributes:
        written: the file or folder that this sink has finished; None where it has not, or writes none.
    """

    written: Path | None = None

    @abstractmethod
    def write(self, result: Result) -> None:
        """Takes one frame."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class VideoSink(Sink):
    """An annotated MP4 of the frames' size, where that is odd one pixel more.

    Its colour planes have half the size, so FFmpeg writes even sizes only and would cut the last row or column:
    here it is doubled instead. The file is written as ``NAME.partial.mp4`` and takes its name at the end; after an
    error it stays under that name, playable as far as it goes.

    Args:
        path: the file to write, ending in .mp4; an older one is replaced at the end.
        fps: frames a second.
    """

    def __init__(self, path: Path, *, fps: float | None) -> None:
        self.path = path
        self.frames = 0
        self._partial = partial_path(path)
        self._fps = fps or DEFAULT_FPS
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, result: Result) -> None:
        frame, picture = result.frame, result.picture
        size = (picture.shape[1], picture.shape[0])
        if self._writer is None:
            self._writer, self._size = self._open((size[0] + size[0] % 2, size[1] + size[1] % 2)), size
        # OpenCV drops a frame of another size without a word.
        if size != self._size:
            raise SinkError(
                f"{self.path}: expected frames of {self._size[0]}x{self._size[1]} pixels, frame {frame.index} of "
                f"{frame.name} has {size[0]}x{size[1]}; save to a folder instead"
            )
        with quiet_opencv():
            self._writer.write(_padded_to_even(picture))
        self.frames += 1

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        try:
            name = opencv_name(self._partial)
        except UnicodeEncodeError as error:
            raise SinkError(f"{self.path}: the name is not UTF-8, which OpenCV needs; give another") from error
        self.path.parent.mkdir(parents=True, exist_ok=True)
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
        with quiet_opencv():
            readable = cv2.VideoCapture(opencv_name(self._partial))
        # OpenCV does not report a failed write; without its index, written last, an MP4 does not open.
        if not readable.isOpened():
            raise SinkError(f"{self._partial}: the video written cannot be opened; is there space on the disk?")
        readable.release()
        os.replace(self._partial, self.path)
        self.written = self.path


class ImageSink(Sink):
    """Annotated pictures in a folder, under the names of those they come from; ``.png`` is added where that
    format cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: Result) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_image(self.folder / saved_name(Path(result.frame.name)), result.picture)
        self.written = self.folder


class WindowSink(Sink):
    """Shows the newest picture. GUI toolkits want one thread, so ``write`` only keeps the picture: call
    ``show`` from the main thread."""

    def __init__(self, title: str = "retina-edge") -> None:
        self.title = title
        self._picture: Picture | None = None

    def __enter__(self) -> Sink:
        # Without a display Qt ends the process instead of raising.
        if sys.platform.startswith("linux") and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
            raise SinkError("cannot show a window: DISPLAY is not set; use a desktop session, or --save")
        try:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise SinkError(
                "cannot show a window: this OpenCV has no GUI; replace opencv-python-headless by opencv-python, "
                "or use --save"
            ) from error
        return self

    def write(self, result: Result) -> None:
        self._picture = result.picture

    def show(self, *, wait: bool = False) -> bool:
        """Shows the newest picture, with ``wait`` until a key; false once the user pressed q or Escape, or
        closed the window."""
        try:
            if self._picture is not None:
                cv2.imshow(self.title, self._picture)
            key = cv2.waitKey(0 if wait else 1) & 0xFF
            return key not in (KEY_ESCAPE, ord("q")) and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) > 0
        except cv2.error:  # some toolkits raise for a window that was closed
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(cv2.error):  # already closed
            cv2.destroyWindow(self.title)


def saving_sink(save: Path, source: Source) -> Sink:
    """The sink that saves an open source's pictures: at ``save`` itself when it ends in .mp4, else inside that
    folder."""
    if isinstance(source, ImageSource):
        return ImageSink(save)
    path = save if save.suffix.lower() == ".mp4" else save / source.output_names[0]
    return VideoSink(path, fps=source.info.fps)


def partial_path(path: Path) -> Path:
    """Where a video lies until it is whole."""
    return path.with_suffix(".partial.mp4")


def _padded_to_even(picture: Picture) -> Picture:
    """The picture with its last row and column doubled where their number is odd."""
    bottom, right = picture.shape[0] % 2, picture.shape[1] % 2
    if not bottom and not right:
        return picture
    return cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)


def write_image(path: Path, picture: Picture) -> None:
    """Writes a picture uint8 [height, width, 3] BGR in the format of the path's ending.

    Raises:
        SinkError: OpenCV cannot write this format or size.
    """
    try:
        with quiet_opencv():
            ok, data = cv2.imencode(path.suffix, picture)
    except cv2.error:
        ok = False
    if not ok:
        raise SinkError(
            f"{path}: OpenCV cannot write {picture.shape[1]}x{picture.shape[0]} pixels in colour as "
            f"{path.suffix or 'a file without ending'}; convert the source to .png or .jpg"
        )
    path.write_bytes(data.tobytes())


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
