"""Where frames come from: pictures, video files, cameras and URLs, all read by OpenCV."""

from __future__ import annotations

import glob
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from engines.errors import SourceError
from retina_edge.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.quiet import quiet_opencv

# A container's frame count is often an estimate from its duration; one frame less means nothing.
FRAME_COUNT_TOLERANCE = 1
# Streams without a rate of their own report the clock of their packets, such as 90000.
MAX_FPS = 1000.0
# Formats without colour: what is drawn on such a picture cannot be saved in its own.
GREY_SUFFIXES = frozenset({".pbm", ".pgm"})


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: uint8 [height, width, 3], BGR; belongs to whoever holds the frame.
        index: its place in the source, from 0.
        timestamp: seconds since the source's start; None for a still picture.
        name: the file or the stream it comes from, without credentials.
        captured: when it was there, by ``time.monotonic``.
    """

    image: npt.NDArray[np.uint8]
    index: int
    timestamp: float | None
    name: str
    captured: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class SourceInfo:
    """What is known before reading.

    Attributes:
        size: (height, width) of the frames, pixels; None where they differ.
        fps: frames a second; None for pictures and where the source does not say.
        frames: how many there are, as far as the source declares it; None for a live one.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    frames: int | None = None


class Source(ABC):
    """An iterator of frames, opened by ``with``.

    Attributes:
        name: for people, without credentials.
        output_names: the file names under which its frames are saved in a folder.
        info: valid inside ``with``.
        live: it goes on while nobody reads: a camera or an address.
        errors: what could not be read although the rest could, one line each.
        warnings: what is odd but lost nothing that could be had.
    """

    name: str
    output_names: tuple[str, ...]
    info: SourceInfo = SourceInfo()
    live: bool = False

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class ImageSource(Source):
    """Picture files in the order given. One that cannot be read is noted in ``errors`` and skipped.

    Raises:
        SourceError: while iterating, when the only file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = list(paths)
        self.name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures"
        self.output_names = tuple(saved_name(path) for path in paths)
        self.info = SourceInfo(frames=len(self.paths))

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.paths):
            try:
                image = read_image(path)
            except SourceError as error:
                if len(self.paths) == 1:
                    raise
                self.errors.append(str(error))
            else:
                yield Frame(image, index, None, str(path))


class VideoSource(Source):
    """A video file, a camera by its index, or a URL.

    Raises:
        SourceError: on entering, when OpenCV cannot open it; while iterating, when it has no frame.
    """

    def __init__(self, address: Path | str | int) -> None:
        super().__init__()
        self._address = address
        if isinstance(address, int):
            self.name, stem = f"camera {address}", f"camera{address}"
        elif isinstance(address, Path):
            self.name, stem = str(address), address.stem
        else:
            self.name, stem = redact(address), "stream"
        self.output_names = (f"{stem}.mp4",)
        self.live = not isinstance(address, Path)

    def __enter__(self) -> Source:
        try:
            target = self._address if isinstance(self._address, int) else opencv_name(self._address)
        except UnicodeEncodeError as error:
            raise SourceError(f"{self.name}: the name is not UTF-8, which OpenCV needs; rename it") from error
        with quiet_opencv():
            self._capture = cv2.VideoCapture(target)
        if not self._capture.isOpened():
            raise SourceError(f"{self.name}: OpenCV cannot open it; {self._advice()}")
        height, width = (int(self._capture.get(item)) for item in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._live = isinstance(self._address, int) or not frames > 0
        self.info = SourceInfo(
            (height, width) if height > 0 and width > 0 else None,
            fps if math.isfinite(fps) and 0 < fps <= MAX_FPS else None,
            None if self._live else round(frames),
        )
        return self

    def _advice(self) -> str:
        if isinstance(self._address, int):
            return "check that the camera is connected and no other program uses it"
        if isinstance(self._address, str):
            return "check the address, the credentials and the network"
        return (
            "expected a picture (" + ", ".join(sorted(IMAGE_SUFFIXES)) + ") or a whole video file of a codec "
            "that this OpenCV decodes; retina-edge doctor says whether it has FFMPEG"
        )

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        index = 0
        while True:
            try:
                ok, image = self._capture.read()
            except cv2.error as error:
                raise SourceError(f"{self.name}: frame {index} cannot be decoded ({error.err})") from error
            if not ok:
                break
            seconds = time.monotonic() - start if self._live else self._position(index)
            yield Frame(image.astype(np.uint8, copy=False), index, seconds, self.name)
            index += 1
        self._check_end(index)

    def _position(self, index: int) -> float:
        """Seconds of the frame just read; by its number where the backend does not know."""
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if index == 0 or seconds > 0:
            return max(0.0, seconds)
        return index / self.info.fps if self.info.fps else 0.0

    def _check_end(self, read: int) -> None:
        if read == 0:
            raise SourceError(f"{self.name}: no frame could be read; {self._advice()}")
        if self._live and not isinstance(self._address, Path):
            self.warnings.append(
                f"{self.name}: gave no frame after {read}: it ended, or its connection was lost; {self._advice()}"
            )
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


def open_sources(names: Sequence[str]) -> list[Source]:
    """The sources that a command line names; neighbouring pictures become one source, so that they are batched.

    Args:
        names: of each a picture, a folder of pictures, a video file, a glob of files, a camera index or a URL.

    Raises:
        SourceError: a file is missing, a folder has no picture, no file matches a glob; names it.
    """
    sources: list[Source] = []
    for found in (found for name in names for found in _open_name(name)):
        if isinstance(found, ImageSource) and sources and isinstance(sources[-1], ImageSource):
            sources[-1] = ImageSource(sources[-1].paths + found.paths)
        else:
            sources.append(found)
    return sources


def redact(address: str) -> str:
    """An address without what may be secret: user, password and query."""
    return re.sub(r"\?.*$", "?***", re.sub(r"://.*@", "://***@", address, flags=re.DOTALL), flags=re.DOTALL)


def opencv_name(address: Path | str) -> str:
    """A video file or URL as ``cv2.VideoCapture`` and ``cv2.VideoWriter`` take it.

    A path becomes absolute: of ``12:30.mp4`` FFmpeg takes "12:" for a protocol.

    Raises:
        UnicodeEncodeError: not UTF-8; OpenCV would end the process.
    """
    name = str(address.absolute()) if isinstance(address, Path) else address
    name.encode()
    return name


def saved_name(path: Path) -> str:
    """The file name for the annotated picture: its own, with .png added where its format cannot be written."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES - GREY_SUFFIXES and cv2.haveImageWriter(f"picture{suffix}"):
        return path.name
    return f"{path.name}.png"


def _open_name(name: str) -> list[Source]:
    if "://" in name:
        return [VideoSource(name)]
    path = Path(name)
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not pictures:
            raise SourceError(
                f"{path}: expected a folder with pictures ({', '.join(sorted(IMAGE_SUFFIXES))}), found none in it"
            )
        return [ImageSource(pictures)]
    if path.exists():
        return [_open_file(path)]
    if name.isdecimal():
        return [VideoSource(int(name))]
    if glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
        if not matches:
            raise SourceError(f"{name}: no file matches; check the pattern, and quote it against the shell")
        return [_open_file(match) for match in matches]
    raise SourceError(f"{name}: no such file or folder; for a camera give its number, for a stream a URL")


def _open_file(path: Path) -> Source:
    return ImageSource([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)
