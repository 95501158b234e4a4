"""A sink for detections as a CSV table, one row per detection, for spreadsheets and data frames."""

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
# Characters that make a spreadsheet treat a cell as a formula (OWASP, "CSV Injection"). Excel accepts full-width forms.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class CsvSink(TextFileSink):
    """A sink that writes a header and one row per detection, as CSV (RFC 4180) in UTF-8. ``HEADER`` names the columns.

    Boxes are xyxy in frame pixels. A frame without detections leaves no row, while JSON lines have a line for every
    frame. ``timestamp`` is in seconds from the start of the source, empty for an image. ``captured`` is UTC, ISO 8601.
    ``track`` is empty for an object that is not tracked. A name that a spreadsheet would treat as a formula gets a
    leading apostrophe.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from pathlib import Path
        >>> with TemporaryDirectory() as folder, CsvSink(Path(folder) / "out.csv") as sink:
        ...     print(sink.path.read_text().strip())
        stream,source,frame,timestamp,captured,track,name,score,x1,y1,x2,y2
    """

    newline = ""  # the csv module writes line ends
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
    """Return the text with a leading apostrophe if a spreadsheet would treat it as a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text
