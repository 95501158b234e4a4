"""The interface of sinks: each takes results and is a context manager."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

from retina_edge.pipeline.result import Result


class Sink(ABC):
    """Takes results in order, from one thread at a time, inside its ``with`` block.

    Attributes:
        written: the files or folders that this sink has finished.
        resumable: whether after an error another one can go on in its place.
    """

    written: tuple[Path, ...] = ()
    resumable = True

    @property
    def lost(self) -> int:
        """Results that were taken and could not be written; of most an error says so instead."""
        return 0

    @property
    def error(self) -> BaseException | None:
        """What keeps it from writing, or did so last; None where nothing did."""
        return None

    @property
    def failing(self) -> bool:
        """Whether results are lost at present."""
        return self.error is not None

    def takes(self, result: Result) -> bool:
        """Whether a result leaves anything in what is written."""
        del result
        return True

    @abstractmethod
    def write(self, result: Result) -> None:
        """Takes one frame."""

    def end(self, stream: str) -> None:  # noqa: B027 -- most have nothing to do
        """No more results of this stream come."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
