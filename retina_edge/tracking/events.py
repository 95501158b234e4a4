"""What happened to an object in a zone or at a line of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from retina_edge.system.timestamps import utc_iso

Kind = Literal["entered", "left", "crossed"]
Direction = Literal["in", "out"]


@dataclass(frozen=True)
class Event:
    """One object entered or left a zone, or crossed a line.

    Attributes:
        kind: "entered" or "left" a zone, or "crossed" a line.
        stream: the stream's name, without credentials.
        region: the zone's or line's name.
        direction: of a crossing, "in" or "out"; None otherwise.
        track: the object's id, unique in its stream.
        class_name: what it is.
        score: of the detection in ``box``, 0 to 1.
        box: xyxy, frame pixels. Of an object that vanished in its zone, where it was seen last.
        size: (height, width) of the frame that ``box`` belongs to, pixels.
        captured: when that frame was captured, in UTC.
        counts: of the region, with this event.

    Raises:
        ValueError: a direction without a crossing or the other way about, or a time without a zone or not in UTC.
    """

    kind: Kind
    stream: str
    region: str
    direction: Direction | None
    track: int
    class_name: str
    score: float
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    captured: datetime
    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.direction not in (("in", "out") if self.kind == "crossed" else (None,)):
            raise ValueError(f"direction: expected in or out of what crossed, else None; got {self.direction!r}")
        if self.captured.utcoffset() != timedelta(0):
            raise ValueError(f"captured: expected a time in UTC with its zone, got {self.captured!r}")

    def to_dict(self) -> dict[str, Any]:
        """For ``json.dumps``; the time is ISO 8601 to the millisecond, with Z for UTC."""
        return {
            "time": utc_iso(self.captured),
            "stream": self.stream,
            "kind": self.kind,
            "region": self.region,
            "direction": self.direction,
            "track": self.track,
            "class": self.class_name,
            "score": round(self.score, 4),
            "box": [round(side, 2) for side in self.box],
            "width": self.size[1],
            "height": self.size[0],
            "counts": dict(self.counts),
        }
