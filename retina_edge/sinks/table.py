"""Detections as a table: one row a detection, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from retina_edge.sinks.base import Result, Sink
from retina_edge.sinks.text import TextFileSink

HEADER = ("source", "frame", "captured", "track", "name", "score", "x1", "y1", "x2", "y2")
# What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection"); full-width forms count for Excel too.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class CsvSink(TextFileSink):
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

    newline = ""  # left to the csv module

    def __init__(
        self,
        path: Path,
        *,
        captured: Callable[[Result], datetime | float | None] | None = None,
        tracks: Callable[[Result], Sequence[int | None]] | None = None,
    ) -> None:
        super().__init__(path)
        self._captured = captured or (lambda result: result.frame.timestamp)
        self._tracks = tracks or (lambda result: [None] * len(result.detections))

    def __enter__(self) -> Sink:
        super().__enter__()
        self._write([HEADER])
        return self

    def write(self, result: Result) -> None:
        frame, detections = result.frame, result.detections
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
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self.write_text(text.getvalue())


def _plain(text: str) -> str:
    """A text that no spreadsheet computes."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def _time(moment: datetime | float | None) -> str:
    if moment is None:
        return ""
    if isinstance(moment, datetime):
        return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return str(round(moment, 6))
