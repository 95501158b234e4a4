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


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a source.

    Attributes:
        image: uint8 [height, width, 3], BGR. The receiver of the frame may modify it.
        index: position in the source, from 0.
        timestamp: seconds since the start of the source; None for an image file.
        name: file or stream that the frame comes from, without credentials.
        captured: time of capture, by ``time.monotonic``.

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
    def captured_at(self) -> datetime:
        """Time of capture, in UTC."""
        return datetime.now(timezone.utc) - timedelta(seconds=time.monotonic() - self.captured)


@dataclass(frozen=True)
class SourceInfo:
    """Properties of a source that are known before its first frame is read.

    Attributes:
        size: (height, width) of the frames, pixels; None if the frames may differ in size.
        fps: frames per second; None for image files, and if the source does not declare a rate.
        frames: number of frames that the source declares; None for a live source.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    frames: int | None = None


class Source(ABC):
    """An iterator of frames, opened by ``with``.

    Attributes:
        name: name for messages, without credentials.
        live: True if frames arrive in real time, so that a slow reader must drop some. The value is reliable inside
            the ``with`` block, and a guess before it.
        bit_depth: bits that image files of 16 bits use.
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
