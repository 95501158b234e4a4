"""The interface of all sources: an iterator of frames, opened by ``with``, that another thread can interrupt."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from types import TracebackType

import numpy as np
import numpy.typing as npt

from engines.core.contract import BIT_DEPTH
from engines.core.frame_pool import FramePool
from engines.core.option_checks import check_number

# Frames per second of images and bare streams whose rate is unknown; FFmpeg assumes the same.
DEFAULT_FPS = 25.0
# Highest rate that a user can give to files.
MAX_GIVEN_FPS = 1000.0
# A source that declares no rate reports the clock of its packets instead, such as 1000 (WebM) or 90000 (RTP).
MAX_DECLARED_FPS = 240.0


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a source.

    Attributes:
        image: uint8 [height, width, 3], BGR. The receiver of the frame may modify it.
        index: position in the source, from 0.
        timestamp: seconds since the first frame of a file, as the file says; seconds since the start of a live source,
            by the clock; None for an image file without a given rate.
        name: file or stream that the frame comes from, without credentials.
        captured: time of capture, by ``time.monotonic``; for a file, the time at which the frame was read.

    Examples:
        >>> frame = Frame(np.zeros((48, 64, 3), np.uint8), index=0, timestamp=0.0, name="camera 0")
        >>> frame.image.shape
        (48, 64, 3)
        >>> frame.captured_at <= datetime.now(timezone.utc)
        True
    """

    image: npt.NDArray[np.uint8]
    index: int
    timestamp: float | None
    name: str
    captured: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time of the frame in its source: ``timestamp``, or for an image file its index at ``DEFAULT_FPS``."""
        return self.index / DEFAULT_FPS if self.timestamp is None else self.timestamp

    @property
    def captured_at(self) -> datetime:
        """Time of capture, in UTC."""
        return datetime.now(timezone.utc) - timedelta(seconds=time.monotonic() - self.captured)


@dataclass(frozen=True)
class SourceInfo:
    """Properties of a source that are known before its first frame is read.

    Attributes:
        size: (height, width) of the frames, pixels; None if the frames may differ in size.
        fps: frames per second, as given, declared or measured; None for image files without a given rate, and if a live
            source does not declare a rate.
        frames: number of frames that the source declares; None for a live source.
        duration: seconds from the first frame to the end of the last one. None until a file has ended.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    frames: int | None = None
    duration: float | None = None


class Source(ABC):
    """An iterator of frames, opened by ``with``.

    Attributes:
        name: name for messages, without credentials.
        live: True if frames arrive in real time, so that a slow reader must drop some. The value is reliable inside
            the ``with`` block, and a guess before it.
        bit_depth: bits that image files of 16 bits use.
        pool: pool whose frames the source fills; set the detector's pool before the source is iterated.
        output_names: file names under which the frames are saved in a folder.
        info: properties of the source; valid inside the ``with`` block.
        errors: one line for each part that could not be read, although the other parts could.
        warnings: one line for each irregularity that lost no readable frame.

    Examples:
        >>> class BlackFrame(Source):
        ...     name, output_names = "black", ("black.mp4",)
        ...     def __iter__(self):
        ...         yield Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0, self.name)
        >>> with BlackFrame() as source:
        ...     print(len(list(source)))
        1
    """

    name: str
    output_names: tuple[str, ...]
    live: bool = False
    bit_depth: int = BIT_DEPTH
    info: SourceInfo = SourceInfo()

    def __init__(self) -> None:
        self.pool = FramePool()
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """End the iteration for good and without a warning, and also a read in progress. Thread-safe, at any time.

        Each source documents how soon a read in progress ends. Closing a source during a read is not safe. Therefore,
        another thread than the reading one may leave the ``with`` block only after the reading thread has ended.
        """
        self._interrupted.set()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def declared_fps(fps: float | None) -> float | None:
    """Return the rate that a source reports, or None if that is no rate.

    Examples:
        >>> declared_fps(29.97), declared_fps(90000.0)
        (29.97, None)
    """
    return fps if fps is not None and 0 < fps <= MAX_DECLARED_FPS else None


def check_fps(fps: float) -> None:
    """Check a rate that a user gives to files.

    Raises:
        ContractError: if it is not above 0 and at most ``MAX_GIVEN_FPS``.

    Examples:
        >>> check_fps(12.5)
    """
    check_number("fps", fps, f"0 < fps <= {MAX_GIVEN_FPS:g}", lambda value: 0 < value <= MAX_GIVEN_FPS)
