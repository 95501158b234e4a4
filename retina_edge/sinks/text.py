"""Results as text: what such files have in common, and JSON lines; a table is in ``table``."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from retina_edge.sinks.base import Result, Sink, SinkError


class TextFileSink(Sink):
    """A text file in UTF-8, open within the ``with`` block; each text is in it at once, for whoever reads along.

    Args:
        path: the file.
        append: to an older one; else that is replaced at once.

    Raises:
        OSError: on entering, writing or closing; names the file.
        SinkError: the older one begins with something else.
    """

    # As of ``open``: None for the system's line ends.
    newline: str | None = None
    # At the beginning of a file.
    header = ""

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path = path
        self._append = append
        self._file: TextIO | None = None
        self._whole = True

    def __enter__(self) -> Sink:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A name that is not UTF-8 holds surrogates: backslashreplace writes them as escapes.
        self._file = self.path.open(
            "a" if self._append else "w",
            buffering=1,
            encoding="utf-8",
            errors="backslashreplace",
            newline=self.newline,
        )
        try:
            self._begin(self._file)
        except (OSError, SinkError) as error:
            with suppress(OSError):
                self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self, file: TextIO) -> None:
        """Writes the header, or sees to it that what comes is no part of what is there: a full disk or a power cut may
        have cut its last line, or the header."""
        size = self.path.stat().st_size
        start = _start(self.path, len(self.header)) if size else ""
        if not self.header.startswith(start):
            raise SinkError(
                f"{self.path}: expected a table that begins with {self.header.strip()}, to continue it, found another; "
                "give another name"
            )
        if start != self.header:
            if size:
                file.truncate(0)
            self.write_text(self.header)
        elif size and not _ends_a_line(self.path):
            self.write_text("\n")

    def write_text(self, text: str) -> None:
        """Appends to the file."""
        if self._file is None:
            raise ValueError(f"{self.path}: a sink takes frames inside its with block only")
        try:
            self._file.write(text)
        except OSError as error:
            self._whole = False
            raise self._named(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.close()
        except OSError as close_error:
            raise self._named(close_error) from close_error
        if self._whole:
            self.written = (self.path,)

    def _named(self, error: OSError) -> OSError:
        """The error with the file's name, which writing to an open file leaves out."""
        return OSError(error.errno, error.strerror, str(self.path))


class JsonlSink(TextFileSink):
    """One JSON object a frame: frame, timestamp, source and its detections, boxes xyxy in frame pixels."""

    def write(self, result: Result) -> None:
        self.write_text(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")


def _start(path: Path, length: int) -> str:
    with path.open("rb") as file:
        return file.read(length).decode("ascii", errors="replace")


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
