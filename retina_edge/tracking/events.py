"""Events of tracked objects at the zones and lines of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from retina_edge.system.timestamps import utc_iso

Kind = Literal["entered", "left", "dwelled", "crossed"]
Direction = Literal["in", "out"]


@dataclass(frozen=True)
class Event:
    """An event of one object, which entered or left a zone, dwelled in it, or crossed a line.

    Attributes:
        kind: "entered" or "left" a zone, "dwelled" in it as long as its limit, or "crossed" a line.
        stream: name of the stream, without credentials.
        region: name of the zone or line.
        direction: "in" or "out" for a crossing; None otherwise.
        track: id of the object, unique in its stream.
        class_name: class of the object.
        score: score of the detection in ``box``, 0 to 1.
        box: box of the object, xyxy, frame pixels; the last known box if the object vanished inside a zone.
        size: (height, width) of the frame that ``box`` belongs to, pixels.
        captured: time of capture of that frame, in UTC; for a file, the time at which it was read.
        counts: counts of the region, including this event.
        timestamp: time of that frame in its source, in seconds, as in ``Frame``; None for an image file without a rate.
        clip: file name of the clip that shows the event; None without clips.
        dwell: dwell time of an object that left a zone or dwelled in it, in seconds; None for the other events.

    Raises:
        ValueError: if a crossing has no direction, another event has one, or the time is not in UTC.

    Examples:
        >>> from datetime import timezone
        >>> noon = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
        >>> box, size, counts = (10.0, 20.0, 50.0, 90.0), (480, 640), {"in": 1, "out": 0}
        >>> event = Event("crossed", "yard", "door", "in", 7, "person", 0.8, box, size, noon, counts)
        >>> event.to_dict()["time"], event.to_dict()["counts"]
        ('2026-11-26T12:00:00.000Z', {'in': 1, 'out': 0})
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
    timestamp: float | None = None
    clip: str | None = None
    dwell: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in (("in", "out") if self.kind == "crossed" else (None,)):
            raise ValueError(f"direction: expected in or out for a crossing, None otherwise; got {self.direction!r}")
        if self.captured.utcoffset() != timedelta(0):
            raise ValueError(f"captured: expected a time in UTC with its time zone, got {self.captured!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the event as a dict for ``json.dumps``. The time is ISO 8601 to the millisecond, with Z for UTC.

        ``clip`` is left out if there is none.
        """
        values = {
            "time": utc_iso(self.captured),
            "timestamp": None if self.timestamp is None else round(self.timestamp, 6),
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
            "dwell": None if self.dwell is None else round(self.dwell, 3),
        }
        return values if self.clip is None else {**values, "clip": self.clip}
