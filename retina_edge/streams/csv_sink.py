"""Detections as a table: one row a detection, for spreadsheets and data frames."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TextIO

from retina_edge.streams.sinks import Result, Sink

HEADER = ("source", "frame", "captured", "track", "name", "score", "x1", "y1", "x2", "y2")
# What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection"); full-width forms count for Excel too.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class CsvSink(Sink):
    """RFC 4180 in UTF-8 with a header: source, frame, captured, track, name, score, x1, y1, x2, y2 (frame pixels).

    A frame without detections leaves no row: that it was looked at is in the JSON lines, not here. ``captured`` is
    UTC, ISO 8601, or seconds from the source's start, or empty where there is no time; ``track`` is empty without
    tracking. A source or class name that a spreadsheet would compute gets an apostrophe in front.

    Args:
        path: the file; an older one is replaced at once.
        captured: when a result's frame was captured: a time with its zone, or seconds. Default: the frame's
            ``timestamp``.
        tracks: the track number of each of a result's detections, None where there is none. Default: no tracks.

    Raises:
        OSError: on entering or writing; names the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        captured: Callable[[Result], datetime | float | None] | None = None,
        tracks: Callable[[Result], Sequence[int | None]] | None = None,
    ) -> None:
        self.path = path
        self._captured = captured or (lambda result: result.frame.timestamp)
        self._tracks = tracks or (lambda result: [None] * len(result.detections))
        self._file: TextIO | None = None
        self._whole = True

    def __enter__(self) -> Sink:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A name that is not UTF-8 holds surrogates; newline="" leaves the line ends to the csv module.
        self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._write([HEADER])
        return self

    def write(self, result: Result) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: a sink takes frames inside its with block only")
        frame, detections = result.frame, result.detections
        if not len(detections):
            return
        source, captured = _plain(frame.name), _time(self._captured(result))
        rows = zip(
            self._tracks(result), detections.names, detections.scores.tolist(), detections.boxes.tolist(), strict=True
        )
        self._write(
            [
                (source, frame.index, captured, track, _plain(name), round(score, 4), *(round(side, 2) for side in box))
                for track, name, score, box in rows
            ]
        )

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        assert self._file is not None
        try:
            csv.writer(self._file).writerows(rows)
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
            self.written = self.path

    def _named(self, error: OSError) -> OSError:
        """The error with the file's name, which writing to an open file leaves out."""
        return OSError(error.errno, error.strerror, str(self.path))


def _plain(text: str) -> str:
    """A text that no spreadsheet computes."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def _time(moment: datetime | float | None) -> str:
    if moment is None:
        return ""
    if isinstance(moment, datetime):
        return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return str(round(moment, 6))
