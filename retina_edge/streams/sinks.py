"""Where results go: a video, a folder of pictures, JSON lines, a window. Each is a context manager."""

from __future__ import annotations

import json
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

import cv2
import numpy as np
import numpy.typing as npt

from engines.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.image_file import IMAGE_SUFFIXES
from retina_edge.quiet import quiet_opencv
from retina_edge.streams.sources import Frame, ImageSource, Source

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
        picture: uint8 [height, width, 3], BGR: annotated where any sink draws, else the frame's own image. Not
            to be written into: all sinks share it.
    """

    frame: Frame
    detections: Detections
    picture: Picture


class Sink(ABC):
    """Takes results in order, from one thread at a time, inside its ``with`` block.

    Attributes:
        draws: whether it needs the annotated picture.
    """

    draws = False

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
    """An annotated MP4 of the frames' size.

    It is written as ``NAME.partial.mp4`` and takes its name at the end; after an error it stays under that name,
    playable as far as it goes.

    Args:
        path: the file to write, ending in .mp4; an older one is replaced at the end.
        fps: frames a second.
    """

    draws = True

    def __init__(self, path: Path, *, fps: float | None) -> None:
        self.path = path
        self.frames = 0
        self._partial = path.with_suffix(".partial.mp4")
        self._fps = fps or DEFAULT_FPS
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, result: Result) -> None:
        frame, picture = result.frame, result.picture
        size = (picture.shape[1], picture.shape[0])
        if self._writer is None:
            self._writer, self._size = self._open(size), size
        # OpenCV drops a frame of another size without a word.
        if size != self._size:
            raise SinkError(
                f"{self.path}: expected frames of {self._size[0]}x{self._size[1]} pixels, frame {frame.index} of "
                f"{frame.name} has {size[0]}x{size[1]}; save to a folder instead"
            )
        self._writer.write(picture)
        self.frames += 1

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial.touch()  # an unwritable folder is an OSError that says so
        for codec in CODECS:
            with quiet_opencv():
                writer = cv2.VideoWriter(
                    str(self._partial), cv2.VideoWriter.fourcc(*codec), self._fps, size, isColor=True
                )
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
        self._writer.release()
        self._writer = None
        # Ctrl-C is how a camera's recording ends: what was written is whole.
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self._publish()
        else:
            logger.warning("%s: not completed; %d frames are in %s", self.path, self.frames, self._partial)

    def _publish(self) -> None:
        with quiet_opencv():
            readable = cv2.VideoCapture(str(self._partial))
        # OpenCV does not report a failed write; without its index, written last, an MP4 does not open.
        if not readable.isOpened():
            raise SinkError(f"{self._partial}: the video written cannot be opened; is there space on the disk?")
        readable.release()
        os.replace(self._partial, self.path)


class ImageSink(Sink):
    """Annotated pictures in a folder, under the names of those they come from."""

    draws = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: Result) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_image(self.folder / Path(result.frame.name).name, result.picture)


class JsonlSink(Sink):
    """One JSON object a frame: frame, timestamp, source and its detections, boxes xyxy in frame pixels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Sink:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def write(self, result: Result) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: a sink takes frames inside its with block only")
        frame, detections = result.frame, result.detections
        rows = zip(
            detections.boxes.tolist(),
            detections.scores.tolist(),
            detections.labels.tolist(),
            detections.names,
            strict=True,
        )
        record = {
            "frame": frame.index,
            "timestamp": None if frame.timestamp is None else round(frame.timestamp, 6),
            "source": frame.name,
            "detections": [
                {"box": [round(side, 2) for side in box], "score": round(score, 4), "label": label, "name": name}
                for box, score, label, name in rows
            ],
        }
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class WindowSink(Sink):
    """Shows the newest picture. GUI toolkits want one thread, so ``write`` only keeps the picture: call
    ``show`` from the main thread."""

    draws = True

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
        if self._picture is not None:
            cv2.imshow(self.title, self._picture)
        key = cv2.waitKey(0 if wait else 1) & 0xFF
        return key not in (KEY_ESCAPE, ord("q")) and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) > 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cv2.destroyWindow(self.title)


def saving_sink(save: Path, source: Source) -> Sink:
    """The sink that saves an open source's pictures: at ``save`` itself when it ends in .mp4, else inside that
    folder."""
    if isinstance(source, ImageSource):
        return ImageSink(save)
    path = save if save.suffix.lower() == ".mp4" else save / source.output_names[0]
    return VideoSink(path, fps=source.info.fps)


def check_save(save: Path, sources: Sequence[Source]) -> None:
    """Refuses, before any work, a place for pictures that cannot be meant.

    Raises:
        SinkError: one MP4 for several sources or for pictures, two outputs of one name, an output that would
            replace its own source, another file format.
    """
    if save.suffix.lower() == ".mp4":
        if len(sources) != 1 or isinstance(sources[0], ImageSource):
            raise SinkError(f"--save {save}: an MP4 takes one video, camera or URL; for this give a folder")
        targets = [save]
    elif save.suffix.lower() in IMAGE_SUFFIXES | {".avi", ".mkv", ".mov", ".webm"} and not save.is_dir():
        raise SinkError(f"--save {save}: expected a name ending in .mp4, or a folder; pictures keep their names")
    else:
        targets = [save / name for source in sources for name in source.output_names]
    taken: set[Path] = set()
    for target in targets:
        if target in taken:
            raise SinkError(f"--save {save}: two sources would write {target}; run them one by one")
        taken.add(target)
    for source in sources:
        for path in source.paths if isinstance(source, ImageSource) else [Path(source.name)]:
            if path.resolve() in {target.resolve() for target in targets if target.name == path.name}:
                raise SinkError(f"--save {save}: would replace the source {path}; give another folder or name")


def write_image(path: Path, picture: Picture) -> None:
    """Writes a picture uint8 [height, width, 3] BGR in the format of the path's ending.

    Raises:
        SinkError: OpenCV cannot write this format or size.
    """
    try:
        ok, data = cv2.imencode(path.suffix, picture)
    except cv2.error as error:
        raise SinkError(f"{path}: OpenCV cannot write {path.suffix or 'a file without ending'}") from error
    if not ok:
        raise SinkError(f"{path}: OpenCV cannot write {picture.shape[1]}x{picture.shape[0]} pixels like this")
    path.write_bytes(data.tobytes())
