"""Sinks that write results as text: the base class, and JSON lines. CSV is in ``csv_sink``."""

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
from engines.core.file_lock import lock
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink


class TextFileSink(Sink):
    """The base class of sinks that write a text file in UTF-8. Other programs can read each result at once.

    Args:
        path: path of the file; its folder is created if it does not exist.
        append: True to continue an older file; False to overwrite it on entering.

    Raises:
        OSError: on entering, writing or closing, if the file cannot be written; the error names the file.
        SinkError: on entering, if another process writes the file, or the older file does not begin as a file of this
            sink does.
    """

    # The newline argument of ``open``; None for the line ends of the system.
    newline: str | None = None
    # Text at the beginning of a new file.
    header = ""
    # Text that an older file must begin with to be continued or overwritten.
    start = ""

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path = path
        self._append = append
        self._file: TextIO | None = None
        # False after a failed write.
        self._complete = True
        # False for a pipe or a device.
        self._regular = True

    def __enter__(self) -> Sink:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A name that is not UTF-8 holds surrogates; backslashreplace writes them as escapes.
        # Opened without being emptied, because another process may be writing it.
        self._file = self.path.open(
            "a",
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
        """Write the header. An older file of this sink is emptied, or prepared for being continued.

        A last line that was cut by a full disk or a power cut is removed, because an open quote in it would swallow the
        next rows.
        """
        status = self.path.stat()
        size, self._regular = status.st_size, stat.S_ISREG(status.st_mode)
        if self._regular and lock(file.fileno()) is False:
            raise SinkError(f"{self.path}: another process writes this file; end it, or use another name")
        with self.path.open("rb") if size else io.BytesIO() as older:
            start = older.read(len(self.start)).decode("ascii", errors="replace")
            if not self.start.startswith(start):
                raise SinkError(
                    f"{self.path}: expected a file that begins with {self.start.strip()}, got another file, "
                    "which is neither continued nor overwritten; delete it, or use another name"
                )
            end = _end_of_lines(older) if self._append else 0
        if end != size:
            file.truncate(end)
        if not end:
            self._put(self.header)

    def write_text(self, text: str) -> None:
        """Append a text to the file.

        Raises:
            OSError: if the file cannot be written; the error names the file.
            ValueError: if the sink is used outside its ``with`` block.
        """
        if self._file is None:
            raise ValueError(f"{self.path}: a sink takes results only inside its with block")
        # logrotate may have emptied the file meanwhile (copytruncate).
        emptied = bool(self.header) and self._regular and not os.fstat(self._file.fileno()).st_size
        self._put(self.header + text if emptied else text)

    def _put(self, text: str) -> None:
        assert self._file is not None
        try:
            self._file.write(text)
        except OSError as error:
            self._complete = False
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
        if self._complete:
            self.written = (self.path,)

    def _named(self, error: OSError) -> OSError:
        """Return the error with the name of the file, which errors of an open file lack."""
        return OSError(error.errno, error.strerror, str(self.path))


class JsonlSink(TextFileSink):
    """A sink that writes one JSON object per frame: ``Result.to_dict``, with boxes xyxy in frame pixels.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from retina_edge import Detections
        >>> from retina_edge.sources.frames import Frame
        >>> frame = Frame(np.zeros((48, 64, 3), np.uint8), index=7, timestamp=0.28, name="yard.mp4")
        >>> with TemporaryDirectory() as folder, JsonlSink(Path(folder) / "out.jsonl") as sink:
        ...     sink.write(Result(frame, Detections.empty(["tree"], [1])))
        ...     line = json.loads(sink.path.read_text())
        >>> line["source"], line["frame"], line["timestamp"], line["detections"]
        ('yard.mp4', 7, 0.28, [])
    """

    start = '{"stream": '

    def write(self, result: Result) -> None:
        self.write_text(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")


def _end_of_lines(file: BinaryIO) -> int:
    """Return the number of bytes up to and including the last line end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - 65536)
        file.seek(begin)
        position = file.read(end - begin).rfind(b"\n")
        if position >= 0:
            return begin + position + 1
        end = begin
    return 0
