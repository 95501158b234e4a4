"""Results as text: what such files have in common, and JSON lines; a table is in ``table``."""

from __future__ import annotations

import io
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TextIO

from engines.core.errors import SinkError
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink


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
    # Of a new file.
    header = ""
    # How older files begin that can be continued.
    start = ""

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path = path
        self._append = append
        self._file: TextIO | None = None
        self._whole = self._regular = True

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
        """Writes the header; of an older file it first takes away a last line that a full disk or a power cut has cut,
        for a quote that is open in it would swallow what comes."""
        status = self.path.stat()
        size, self._regular = status.st_size, stat.S_ISREG(status.st_mode)
        with self.path.open("rb") if size else io.BytesIO() as older:
            start = older.read(len(self.start)).decode("ascii", errors="replace")
            if not self.start.startswith(start):
                raise SinkError(
                    f"{self.path}: expected a file that begins with {self.start.strip()}, to continue it, found "
                    "another; give another name"
                )
            whole = _end_of_lines(older)
        if whole != size:
            file.truncate(whole)
        if not whole:
            self._put(self.header)

    def write_text(self, text: str) -> None:
        """Appends to the file."""
        if self._file is None:
            raise ValueError(f"{self.path}: a sink takes frames inside its with block only")
        # Whoever rotates the file may have emptied it meanwhile.
        emptied = bool(self.header) and self._regular and not os.fstat(self._file.fileno()).st_size
        self._put(self.header + text if emptied else text)

    def _put(self, text: str) -> None:
        assert self._file is not None
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

    start = '{"stream": '

    def write(self, result: Result) -> None:
        self.write_text(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")


def _end_of_lines(file: BinaryIO) -> int:
    """Bytes up to the last line end, that included."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - 65536)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
