"""Detections as a table: one row a detection, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from retina_edge.pipeline.result import Result
from retina_edge.sinks.text_sink import TextFileSink
from retina_edge.system.timestamps import utc_iso

HEADER = (
    *("stream", "source", "frame", "timestamp", "captured"),
    *("track", "name", "score", "x1", "y1", "x2", "y2"),
)
# What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection"); full-width forms count for Excel too.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class CsvSink(TextFileSink):
    """RFC 4180 in UTF-8 with a header: a row of ``HEADER`` for each detection, boxes in frame pixels.

    A frame without detections leaves no row: that it was looked at is in the JSON lines, not here. ``timestamp`` is
    seconds from the source's start, empty where there is no time; ``captured`` UTC, ISO 8601; ``track`` is empty where
    there is none. A name that a spreadsheet would compute gets an apostrophe in front.
    """

    newline = ""  # left to the csv module
    start = ",".join(HEADER)
    header = start + "\r\n"

    def takes(self, result: Result) -> bool:
        return len(result.detections) > 0

    def write(self, result: Result) -> None:
        frame, detections = result.frame, result.detections
        tracks = [0] * len(detections) if result.tracks is None else result.tracks.tolist()
        time = "" if frame.timestamp is None else round(frame.timestamp, 6)
        where = (_plain(result.stream), _plain(frame.name), frame.index, time, utc_iso(frame.captured_at))
        rows = zip(tracks, detections.names, detections.scores.tolist(), detections.boxes.tolist(), strict=True)
        self._write(
            [
                (
                    *(*where, track if track > 0 else "", _plain(name), round(score, 4)),
                    *(round(side, 2) for side in box),
                )
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
