"""Counters for the tracked objects of one stream: objects in a zone, entering or leaving a zone, crossing a line.

Call a counter with every frame of the stream, in order, and never concurrently. The position of an object is one point
of its box, the anchor point. Boxes jitter. An object therefore leaves a zone or crosses a line only when it is past the
border by a margin, the hysteresis, which is a share of the box's shorter side.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import cv2
import numpy as np

from retina_edge.detections import Detections
from retina_edge.tracking.events import Direction, Event, Kind
from retina_edge.tracking.tracker import Tracks
from retina_edge.tracking.zones import Line, Point, Region, Zone, warn_if_outside

# Position of an object: the middle of the lower side of its box for views from the side, because there it touches the
# ground; the center of the box for views from above.
Anchor = Literal["bottom", "center"]
ANCHORS: tuple[Anchor, ...] = ("bottom", "center")
HYSTERESIS = 0.1
# Longer than the tracker keeps a lost object: an object that the tracker finds again must not have left in between.
VANISHED_SECONDS = 2.0


@dataclass(frozen=True)
class Tally:
    """The counts of a region at one moment.

    Attributes:
        region: the zone or line.
        by_class: number of objects per class name; the keys are "inside", "entered" and "left" for a zone, and "in" and
            "out" for a line.

    Examples:
        >>> door = Line("door", ((0.1, 0.5), (0.9, 0.5)))
        >>> Tally(door, {"in": {"person": 2, "car": 1}, "out": {}}).counts
        {'in': 3, 'out': 0}
    """

    region: Region
    by_class: Mapping[str, Mapping[str, int]]

    @property
    def counts(self) -> dict[str, int]:
        """The counts of all classes together."""
        return {name: sum(numbers.values()) for name, numbers in self.by_class.items()}


@dataclass(frozen=True)
class _Sighting:
    """One tracked object in one frame: ``point`` is its anchor point, ``margin`` its hysteresis, both in pixels."""

    track: int
    class_name: str
    score: float
    box: tuple[float, float, float, float]
    point: Point
    margin: float
    size: tuple[int, int]
    captured: datetime
    position: float | None


@dataclass
class _Seen:
    """The memory of a track: its last sighting, and the time of that sighting by the clock of ``update``."""

    last: _Sighting
    timestamp: float


AnySeen = TypeVar("AnySeen", bound=_Seen)
AnyRegion = TypeVar("AnyRegion", bound=Region)


class RegionCounter(ABC, Generic[AnyRegion, AnySeen]):
    """The common part of the counters of zones and lines.

    Args:
        region: zone or line in which objects are counted; its ``stream`` is not checked.
        stream: name of the stream, for events.
        anchor: anchor point, the point of a box that is the position of its object.
        hysteresis: distance past a border that an object must reach, as a share of the shorter side of its box.
        gone_seconds: seconds after which an unseen object is forgotten; choose several times the frame interval.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        region: AnyRegion,
        *,
        stream: str,
        anchor: Anchor = "bottom",
        hysteresis: float = HYSTERESIS,
        gone_seconds: float = VANISHED_SECONDS,
    ) -> None:
        if anchor not in ANCHORS:
            raise ValueError(f"anchor: expected {' or '.join(ANCHORS)}, got {anchor!r}")
        for name, value in (("hysteresis", hysteresis), ("gone_seconds", gone_seconds)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: expected 0 or more, got {value:g}")
        self._region = region
        self._stream = stream
        self._anchor = anchor
        self._hysteresis = hysteresis
        self._gone_seconds = gone_seconds
        self._size: tuple[int, int] | None = None
        self._points = np.zeros((0, 2), np.float32)
        self._now = -math.inf
        self._seen: dict[int, AnySeen] = {}
        # Objects per class: those that entered the zone or crossed the line in, and those that left it or crossed out.
        self._incoming: Counter[str] = Counter()
        self._outgoing: Counter[str] = Counter()

    def update(
        self,
        detections: Detections,
        tracks: Tracks,
        *,
        size: tuple[int, int],
        timestamp: float,
        captured: datetime,
        position: float | None = None,
    ) -> list[Event]:
        """Count the objects of one frame.

        Args:
            detections: detections of the frame.
            tracks: int64 [N], the track of each detection; detections with a track below 0 are not counted.
            size: (height, width) of the frame, pixels; a change of size makes the counter forget all objects.
            timestamp: time of capture, in seconds of any monotonic clock; for a file, by its own times.
            captured, position: for the events, time of capture in UTC, and ``timestamp`` of the frame.

        Returns:
            The events of this frame: first those of vanished objects, then the others in the order of the detections.

        Raises:
            ValueError: if ``tracks`` does not have one track per detection.
        """
        if tracks.shape != (len(detections),):
            raise ValueError(f"tracks: expected shape ({len(detections)},), one per detection, got {tracks.shape}")
        events: list[Event] = []
        if timestamp < self._now:  # the clock was set back, or a file started over
            for seen in self._seen.values():
                seen.timestamp = timestamp
        self._now = timestamp
        for track, seen in list(self._seen.items()):
            if timestamp - seen.timestamp > self._gone_seconds or size not in (None, seen.last.size):
                del self._seen[track]
                events += self._gone(seen)
        if size != self._size:
            self._size = size
            self._points = self._region.in_pixels(size)
            warn_if_outside(self._region, size)
        for sighting in self._sightings(detections, tracks, size, captured, position):
            events += self._see(sighting)
        return events

    @abstractmethod
    def tally(self) -> Tally:
        """Return a copy of the current counts."""

    @abstractmethod
    def _see(self, sighting: _Sighting) -> list[Event]:
        """Update the memory of a track with its new sighting, and return the events that result."""

    def _gone(self, seen: AnySeen) -> list[Event]:  # noqa: ARG002
        """Return the events of an object that is no longer seen."""
        return []

    def _sightings(
        self, detections: Detections, tracks: Tracks, size: tuple[int, int], captured: datetime, position: float | None
    ) -> Iterator[_Sighting]:
        rows = zip(
            tracks.tolist(), detections.names, detections.scores.tolist(), detections.boxes.tolist(), strict=True
        )
        for track, name, score, (x1, y1, x2, y2) in rows:
            if track >= 0 and (not self._region.classes or name in self._region.classes):
                point = ((x1 + x2) / 2, y2 if self._anchor == "bottom" else (y1 + y2) / 2)
                margin = self._hysteresis * min(x2 - x1, y2 - y1)
                yield _Sighting(track, name, score, (x1, y1, x2, y2), point, margin, size, captured, position)

    def _event(self, kind: Kind, direction: Direction | None, seen: _Sighting) -> Event:
        return Event(
            kind=kind,
            stream=self._stream,
            region=self._region.name,
            direction=direction,
            track=seen.track,
            class_name=seen.class_name,
            score=seen.score,
            box=seen.box,
            size=seen.size,
            captured=seen.captured,
            counts=self.tally().counts,
            timestamp=seen.position,
        )


@dataclass
class _Inside(_Seen):
    """A track inside a zone, with its class on entering. It leaves as that class, even if its class changes inside."""

    class_name: str


class ZoneCounter(RegionCounter[Zone, _Inside]):
    """A counter for the objects that are in a zone, that entered it and that left it.

    The border belongs to the zone. An object enters as soon as its anchor point is inside, even if the object appears
    there. An object leaves when its anchor point is outside by more than the hysteresis, or when the object has not
    been seen for ``gone_seconds``.
    """

    def tally(self) -> Tally:
        """Return a copy of the current counts."""
        return Tally(
            self._region,
            {
                # Counter subtraction drops counts of 0 and below.
                "inside": dict(self._incoming - self._outgoing),
                "entered": dict(self._incoming),
                "left": dict(self._outgoing),
            },
        )

    def _see(self, sighting: _Sighting) -> list[Event]:
        distance = cv2.pointPolygonTest(self._points, sighting.point, measureDist=True)
        seen = self._seen.get(sighting.track)
        if seen is None:
            if distance < 0:
                return []
            self._seen[sighting.track] = _Inside(sighting, self._now, sighting.class_name)
            self._incoming[sighting.class_name] += 1
            return [self._event("entered", None, sighting)]
        seen.last, seen.timestamp = sighting, self._now
        if distance >= -sighting.margin:
            return []
        del self._seen[sighting.track]
        return self._gone(seen)

    def _gone(self, seen: _Inside) -> list[Event]:
        self._outgoing[seen.class_name] += 1
        return [self._event("left", None, dataclasses.replace(seen.last, class_name=seen.class_name))]


@dataclass
class _Path(_Seen):
    """The path of a track relative to a line.

    Attributes:
        distance: signed distance of the last anchor point from the infinite line, pixels; positive on the "in" side.
        near: side of the last anchor point that was not exactly on the line: 1, -1, or 0 for none yet.
        side: last side on which the anchor point was beyond the hysteresis: 1, -1, or 0 for none yet.
        net: passages through the line since ``side`` was set, "in" minus "out"; paths around its ends do not count.
    """

    distance: float
    near: int = 0
    side: int = 0
    net: int = 0


class LineCounter(RegionCounter[Line, _Path]):
    """A counter for the objects that crossed a line, in each direction.

    A crossing counts when an object was beyond the hysteresis on one side, is beyond it on the other, and passed
    through the line in between, not around its ends. Frames without the object do not matter, because the path between
    two sightings is assumed to be straight.
    """

    def tally(self) -> Tally:
        """Return a copy of the current counts."""
        return Tally(self._region, {"in": dict(self._incoming), "out": dict(self._outgoing)})

    def _see(self, sighting: _Sighting) -> list[Event]:
        distance = self._distance(sighting.point)
        path = self._seen.get(sighting.track)
        if path is None:
            path = self._seen[sighting.track] = _Path(sighting, self._now, distance)
        near = _sign(distance)
        if near != 0:
            if path.near not in (0, near) and self._through(path.last.point, path.distance, sighting.point, distance):
                path.net += near
            path.near = near
        path.last, path.timestamp, path.distance = sighting, self._now, distance
        if near == 0 or abs(distance) < sighting.margin:
            return []
        crossed = path.side == -near and path.net * near > 0
        path.side, path.net = near, 0
        if not crossed:
            return []
        (self._incoming if near > 0 else self._outgoing)[sighting.class_name] += 1
        return [self._event("crossed", "in" if near > 0 else "out", sighting)]

    def _distance(self, point: Point) -> float:
        (x1, y1), (x2, y2) = self._points.tolist()
        return ((x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)) / math.hypot(x2 - x1, y2 - y1)

    def _through(self, before: Point, before_distance: float, after: Point, after_distance: float) -> bool:
        """True if the path between two points on different sides passes through the line, not past its ends."""
        share = before_distance / (before_distance - after_distance)
        x, y = (a + share * (b - a) for a, b in zip(before, after, strict=True))
        (x1, y1), (x2, y2) = self._points.tolist()
        along = (x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)
        return 0 <= along <= (x2 - x1) ** 2 + (y2 - y1) ** 2


def make_counters(
    regions: Sequence[Zone | Line],
    *,
    stream: str,
    anchor: Anchor = "bottom",
    hysteresis: float = HYSTERESIS,
    gone_seconds: float = VANISHED_SECONDS,
) -> list[ZoneCounter | LineCounter]:
    """Return a counter for each region that applies to ``stream``, in order. For the options, see ``RegionCounter``.

    Examples:
        >>> regions = [Line("door", ((0.1, 0.5), (0.9, 0.5)), stream="yard")]
        >>> [counter.tally().counts for counter in make_counters(regions, stream="yard")]
        [{'in': 0, 'out': 0}]
    """
    options: Any = {"stream": stream, "anchor": anchor, "hysteresis": hysteresis, "gone_seconds": gone_seconds}
    return [
        ZoneCounter(region, **options) if isinstance(region, Zone) else LineCounter(region, **options)
        for region in regions
        if region.applies_to(stream)
    ]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
