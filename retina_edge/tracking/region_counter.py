"""The common part of the counters of zones and lines: what a counter remembers of each object, and its counts.

Call a counter with every frame of the stream, in order, and never concurrently. The position of an object is one point
of its box, the anchor point. Boxes jitter. An object therefore leaves a zone or crosses a line only when it is past the
border by a margin, the hysteresis, which is a share of the box's shorter side.

A region can be replaced between two frames. Its totals stay, and objects that do not move cause no event.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

import numpy as np

from retina_edge.detections import Detections
from retina_edge.tracking.events import Direction, Event, Kind
from retina_edge.tracking.tracker import Tracks
from retina_edge.tracking.zones import Point, Region, warn_if_outside

# Position of an object: the middle of the lower side of its box for views from the side, because there it touches the
# ground; the center of the box for views from above.
Anchor = Literal["bottom", "center"]
ANCHORS: tuple[Anchor, ...] = ("bottom", "center")
HYSTERESIS = 0.1
# Longer than the tracker keeps a lost object: an object that the tracker finds again must not have left in between.
VANISHED_SECONDS = 2.0


def anchor_point(box: Sequence[float], anchor: Anchor) -> tuple[float, float]:
    """Return the point (x, y) of a box that is the position of its object.

    Args:
        box: the box, xyxy, pixels.
        anchor: ``bottom`` for the middle of the lower side, or ``center``.

    Examples:
        >>> anchor_point((10, 10, 20, 30), "bottom"), anchor_point((10, 10, 20, 30), "center")
        ((15.0, 30), (15.0, 20.0))
    """
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, y2 if anchor == "bottom" else (y1 + y2) / 2


@dataclass(frozen=True)
class Visit:
    """The stay of an object that is in a zone.

    Attributes:
        track: id of the object.
        class_name: class of the object when it entered.
        seconds: dwell time so far, from the frame in which the object entered to its last one, by the stream's clock.
    """

    track: int
    class_name: str
    seconds: float


@dataclass(frozen=True)
class Tally:
    """The counts of a region at one moment.

    Attributes:
        region: the zone or line.
        by_class: number of objects per class name; the keys are "inside", "entered" and "left" for a zone, and "in" and
            "out" for a line. A zone with a limit on the dwell time also has "dwelled".
        visits: the objects that are in a zone.
        visit_seconds: dwell time of the objects that have left a zone, in seconds, summed per class name.

    Examples:
        >>> from retina_edge.tracking.zones import Line
        >>> door = Line("door", ((0.1, 0.5), (0.9, 0.5)))
        >>> Tally(door, {"in": {"person": 2, "car": 1}, "out": {}}).counts
        {'in': 3, 'out': 0}
    """

    region: Region
    by_class: Mapping[str, Mapping[str, int]]
    visits: tuple[Visit, ...] = ()
    visit_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """The counts of all classes together."""
        return {name: sum(numbers.values()) for name, numbers in self.by_class.items()}


@dataclass(frozen=True)
class Sighting:
    """A tracked object in one frame: ``point`` is its anchor point, ``margin`` its hysteresis, both in pixels."""

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
class Seen:
    """The memory of a track: its last sighting, and the time of that sighting by the clock of ``update``."""

    last: Sighting
    timestamp: float

    def set_clock(self, timestamp: float) -> None:
        """Continue from another time, because the clock was set back."""
        self.timestamp = timestamp


AnySeen = TypeVar("AnySeen", bound=Seen)
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
        # All objects of the stream, also those outside and of classes that are not counted: another region may count
        # them.
        self._known: dict[int, Seen] = {}
        # Objects per class: those that entered the zone or crossed the line in, and those that left it or crossed out.
        self._incoming: Counter[str] = Counter()
        self._outgoing: Counter[str] = Counter()

    def replace(self, region: AnyRegion) -> None:
        """Count at another region from the next frame on. The totals stay.

        An object that the change takes into a zone or out of it causes no event and is in no total, because it did not
        move. An object crosses a line only if it was seen on both sides of the new one.
        """
        before, self._region = self._region, region
        if (before.points, before.unit, before.classes) != (region.points, region.unit, region.classes):
            if self._size is not None:
                self._points = region.in_pixels(self._size)
            self._settle()

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
            for memory in (self._seen, self._known):
                for seen in memory.values():
                    seen.set_clock(timestamp)
        self._now = timestamp
        for track, seen in list(self._seen.items()):
            if timestamp - seen.timestamp > self._gone_seconds or size not in (None, seen.last.size):
                del self._seen[track]
                events += self._gone(seen)
        self._known = {
            track: known
            for track, known in self._known.items()
            if timestamp - known.timestamp <= self._gone_seconds and known.last.size == size
        }
        if size != self._size:
            self._size = size
            self._points = self._region.in_pixels(size)
            warn_if_outside(self._region, size)
        for sighting in self._sightings(detections, tracks, size, captured, position):
            self._known[sighting.track] = Seen(sighting, timestamp)
            if self._counts(sighting.class_name):
                events += self._see(sighting)
        return events

    @abstractmethod
    def tally(self) -> Tally:
        """Return a copy of the current counts."""

    @abstractmethod
    def _see(self, sighting: Sighting) -> list[Event]:
        """Update the memory of a track with its new sighting, and return the events that result."""

    @abstractmethod
    def _settle(self) -> None:
        """Adapt the memory of all tracks to a new region, without events."""

    def _counts(self, class_name: str) -> bool:
        """True if objects of this class are counted."""
        return not self._region.classes or class_name in self._region.classes

    def _gone(self, seen: AnySeen) -> list[Event]:  # noqa: ARG002
        """Return the events of an object that is no longer seen."""
        return []

    def _sightings(
        self, detections: Detections, tracks: Tracks, size: tuple[int, int], captured: datetime, position: float | None
    ) -> Iterator[Sighting]:
        rows = zip(
            tracks.tolist(), detections.names, detections.scores.tolist(), detections.boxes.tolist(), strict=True
        )
        for track, name, score, (x1, y1, x2, y2) in rows:
            if track >= 0:
                point = anchor_point((x1, y1, x2, y2), self._anchor)
                margin = self._hysteresis * min(x2 - x1, y2 - y1)
                yield Sighting(track, name, score, (x1, y1, x2, y2), point, margin, size, captured, position)

    def _event(self, kind: Kind, direction: Direction | None, seen: Sighting, *, dwell: float | None = None) -> Event:
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
            dwell=dwell,
        )
