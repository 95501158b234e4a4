"""Tracks of one sequence, read from MOTChallenge text or from the JSON lines of ``detect --track``.

A line of MOTChallenge text (Milan et al., 2016, https://arxiv.org/abs/1603.00831) is ``frame, id, left, top, width,
height``, often with ``confidence, class, visibility`` behind it. Frames begin at 1, and sides are in pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.errors import DataError

# Nine hours at 30 frames per second. Metrics visit each frame, so one wrong number must not stand for a long video.
MAX_FRAME = 1_000_000
# Largest coordinate, pixels, and largest id: both are exact in the float64 that metrics are computed in.
MAX_COORDINATE, MAX_ID = 1e6, 2**53
# Class of ground truth that is counted, as in MOTChallenge: a pedestrian.
COUNTED_CLASS = 1
# Columns of a line with confidence and class; a line of ten columns has a position in the world instead of a class.
CONFIDENCE_COLUMN, CLASS_COLUMN, WORLD_COLUMNS = 6, 7, 10


@dataclass(frozen=True)
class MotRow:
    """One box of one track in one frame.

    Attributes:
        frame: number of the frame, from 1.
        track: id of the track; negative for a box without a track.
        box: left, top, width and height, pixels.
        counts: False for ground truth that is marked to be ignored (confidence 0).
        label: class of ground truth in MOTChallenge's numbers; 1 if the file gives none.
    """

    frame: int
    track: int
    box: tuple[float, float, float, float]
    counts: bool = True
    label: int = COUNTED_CLASS

    @property
    def counted(self) -> bool:
        """True if this is ground truth that is counted."""
        return self.counts and self.label == COUNTED_CLASS


def read_ground_truth(path: Path) -> list[MotRow]:
    """Read the ground truth of one sequence.

    Raises:
        DataError: if the file cannot be read, a line is invalid, or no row is counted.
    """
    rows = _checked(path, _mot_rows(path))
    if any(row.track < 0 for row in rows):
        raise DataError(f"{path}: expected the id of an object in each line, got a negative id")
    if not any(row.counted for row in rows):
        raise DataError(
            f"{path}: expected objects to measure on, found none with a confidence other than 0 and class "
            f"{COUNTED_CLASS}, the columns {CONFIDENCE_COLUMN + 1} and {CLASS_COLUMN + 1}"
        )
    return rows


def read_tracks(path: Path) -> list[MotRow]:
    """Read the tracks of one sequence: MOTChallenge text, or JSON lines if the name ends with ``.jsonl``.

    Raises:
        DataError: if the file cannot be read or a line is invalid.
    """
    return _checked(path, _json_rows(path) if path.suffix.lower() == ".jsonl" else _mot_rows(path))


def _checked(path: Path, lines: Iterator[tuple[int, MotRow]]) -> list[MotRow]:
    """Return the rows, in which each track has at most one box in a frame."""
    seen: dict[tuple[int, int], int] = {}
    rows = []
    for number, row in lines:
        if row.track >= 0 and (first := seen.setdefault((row.frame, row.track), number)) != number:
            raise DataError(
                f"{path}, line {number}: expected one box of id {row.track} in frame {row.frame}, got another in line "
                f"{first}"
            )
        rows.append(row)
    return rows


def _mot_rows(path: Path) -> Iterator[tuple[int, MotRow]]:
    for number, line in _lines(path):
        try:
            cells = [cell.strip() for cell in line.rstrip().rstrip(",").split(",")]
            if len(cells) < CONFIDENCE_COLUMN:
                raise ValueError(f"expected frame,id,left,top,width,height, got {_short(line)}")
            row = MotRow(
                _frame(_integer("frame", cells[0])),
                _integer("id", cells[1]),
                _box([_number(name, cell) for name, cell in zip(_BOX, cells[2:6], strict=True)]),
                len(cells) <= CONFIDENCE_COLUMN or _number("confidence", cells[CONFIDENCE_COLUMN]) != 0,
                _integer("class", cells[CLASS_COLUMN]) if CLASS_COLUMN < len(cells) < WORLD_COLUMNS else COUNTED_CLASS,
            )
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        yield number, row


def _json_rows(path: Path) -> Iterator[tuple[int, MotRow]]:
    streams: set[object] = set()
    for number, line in _lines(path):
        try:
            result = _json_object(line)
            streams.add(str(result.get("stream")))
            if len(streams) > 1:
                raise ValueError(f"expected the results of one stream, got {' and '.join(sorted(map(str, streams)))}")
            frame = _frame(_integer("frame", result.get("frame")) + 1)
            detections = result.get("detections")
            if not isinstance(detections, list):
                raise ValueError(f"expected a list of detections, got {_short(detections)}")
            rows = [row for detection in detections if (row := _json_row(frame, detection)) is not None]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        if len(rows) != len({row.track for row in rows}):
            raise DataError(f"{path}, line {number}: expected one box of each track, got two of one track")
        for row in rows:
            yield number, row


def _json_object(line: str) -> dict[str, Any]:
    try:
        result = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise ValueError(f"expected a JSON object, got {_short(line)}")
    return result


def _json_row(frame: int, detection: object) -> MotRow | None:
    """Return the row of a detection; None if it has no track."""
    if not isinstance(detection, dict) or not isinstance(box := detection.get("box"), list) or len(box) != len(_BOX):
        raise ValueError(f"expected a detection with a box of four sides, got {_short(detection)}")
    if "track" not in detection:
        raise ValueError("expected a track for each detection, got none; run detect with --track")
    if (track := _integer("track", detection["track"])) < 0:
        return None
    left, top, right, bottom = (_number("side", side) for side in box)
    return MotRow(frame, track, _box([left, top, right - left, bottom - top]))


_BOX = ("left", "top", "width", "height")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _number(name: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a number, got {_short(value)}")
    return number


def _integer(name: str, value: object) -> int:
    number = _number(name, value)
    if number != int(number) or abs(number) > MAX_ID:
        raise ValueError(f"{name}: expected an integer, got {_short(value)}")
    return int(number)


def _frame(number: int) -> int:
    if not 1 <= number <= MAX_FRAME:
        raise ValueError(f"frame: expected a number from 1 to {MAX_FRAME}, got {number}")
    return number


def _box(sides: list[float]) -> tuple[float, float, float, float]:
    left, top, width, height = sides
    for name, side in zip(_BOX, sides, strict=True):
        if abs(side) > MAX_COORDINATE:
            raise ValueError(f"{name}: expected at most {MAX_COORDINATE:g} pixels, got {side:g}")
    if width <= 0 or height <= 0:
        raise ValueError(f"box: expected a width and a height greater than 0, got {width:g} x {height:g}")
    return left, top, width, height


def _short(value: object) -> str:
    text = repr(value.strip() if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
