"""The interface of sinks, which take results inside their ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

from retina_edge.pipeline.result import Result


class Sink(ABC):
    """The base class of sinks. A sink takes results in order, from one thread at a time, inside its ``with`` block.

    Attributes:
        written: files or folders that this sink has finished.
        resumable: True if a new sink can take the place of this one after an error.

    Examples:
        >>> class Counter(Sink):
        ...     detections = 0
        ...
        ...     def write(self, result: Result) -> None:
        ...         self.detections += len(result.detections)
        >>> with Counter() as sink:
        ...     sink.failing
        False
    """

    written: tuple[Path, ...] = ()
    resumable = True

    @property
    def lost(self) -> int:
        """Number of results that were taken but could not be written; 0 for sinks that raise an error instead."""
        return 0

    @property
    def error(self) -> BaseException | None:
        """The error that prevents writing now, or the latest one that did; None if there was no error."""
        return None

    @property
    def failing(self) -> bool:
        """True if results are being lost at present."""
        return self.error is not None

    def takes(self, result: Result) -> bool:
        """True if the sink would write something for this result."""
        del result
        return True

    @abstractmethod
    def write(self, result: Result) -> None:
        """Write one result."""

    def end(self, stream: str) -> None:  # noqa: B027 -- most sinks have nothing to do here
        """Finish a stream that has no more results."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
