"""What every source of frames is: an iterator of frames, opened by ``with``, that another thread can end."""

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

    @property
    def captured_at(self) -> datetime:
        """The moment of capture, in UTC."""
        return datetime.now(timezone.utc) - timedelta(seconds=time.monotonic() - self.captured)


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
        live: whether its frames come in their own time, so that a slow reader must drop some; certain inside
            ``with``, a guess before.
        output_names: the file names under which its frames are saved in a folder.
        info: valid inside ``with``.
        errors: what could not be read although the rest could, one line each.
        warnings: what is odd but lost nothing that could be had.
    """

    name: str
    output_names: tuple[str, ...]
    live: bool = False
    info: SourceInfo = SourceInfo()

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """Ends the iteration for good, without a warning, also a read in progress; from any thread, at any time.

        How soon a read in progress ends, each source says. ``with`` is left by the thread that reads, or after it
        has ended: closing is not safe beside reading.
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
