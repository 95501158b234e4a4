"""Counts the tracked objects of one stream: who is in a zone, who entered and left it, who crossed a line.

Between ``tracking`` and the sinks, called for each frame of the stream in order, from one thread at a time. Each
object stands at one point of its box, its anchor. Boxes tremble, so near a border it takes a distance to count: a
share of the box's shorter side.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge.detections import Detections
from retina_edge.tracking.events import Direction, Event, Kind
from retina_edge.tracking.zones import Line, Point, Region, Zone, warn_if_outside

# Where an object stands: the middle of its box's lower side where it stands on the ground and is seen from the side,
# the middle of its box where it is seen from above.
Anchor = Literal["bottom", "centre"]
ANCHORS: tuple[Anchor, ...] = ("bottom", "centre")
HYSTERESIS = 0.1
# Longer than a tracker takes to give up an object, so that one seen again has not left in between.
VANISHED_SECONDS = 2.0


@dataclass(frozen=True)
class Tally:
    """A region and its counts at one moment, for drawing and for showing.

    Attributes:
        region: the zone or line.
        by_class: objects of each class name, under "inside", "entered" and "left" of a zone, "in" and "out" of a line.
    """

    region: Region
    by_class: Mapping[str, Mapping[str, int]]

    @property
    def counts(self) -> dict[str, int]:
        """Of all classes together."""
        return {name: sum(found.values()) for name, found in self.by_class.items()}


@dataclass(frozen=True)
class _Sighting:
    """One tracked object in one frame; ``point`` is its anchor and ``margin`` the distance that counts, in pixels."""

    track: int
    class_name: str
    score: float
    box: tuple[float, float, float, float]
    point: Point
    margin: float
    size: tuple[int, int]
    captured: datetime


@dataclass
class _Seen:
    """What is remembered of a track: its last sighting, and when that was by the clock of ``update``."""

    last: _Sighting
    timestamp: float


AnySeen = TypeVar("AnySeen", bound=_Seen)
AnyRegion = TypeVar("AnyRegion", bound=Region)


class RegionCounter(ABC, Generic[AnyRegion, AnySeen]):
    """What counters of zones and lines have in common.

    Args:
        region: what is counted in; whether it is for this stream is not looked at.
        stream: the stream's name in the events.
        anchor: which point of a box is looked at.
        hysteresis: share of a box's shorter side that its anchor must be beyond a border; 0 for none.
        gone_seconds: how long an object may be unseen before it is forgotten; several times that between two frames.

    Raises:
        ValueError: a value that cannot be.
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
        # By class: who entered or went in, who left or went out.
        self._came: Counter[str] = Counter()
        self._went: Counter[str] = Counter()

    def update(
        self,
        detections: Detections,
        tracks: npt.NDArray[np.int64],
        *,
        size: tuple[int, int],
        timestamp: float,
        captured: datetime,
    ) -> list[Event]:
        """Counts one frame.

        Args:
            detections: of the frame.
            tracks: int64 [N], the track of each; below 0 where it has none, and such are not counted.
            size: (height, width) of the frame, pixels. With another one than before every object is forgotten.
            timestamp: when it was captured, seconds of any steady clock.
            captured: when that was, in UTC.

        Returns:
            What happened in this frame: of what vanished first, then in the order of the detections.

        Raises:
            ValueError: not one track for each detection.
        """
        if tracks.shape != (len(detections),):
            raise ValueError(f"tracks: expected a track for each of {len(detections)} detections, got {tracks.shape}")
        events: list[Event] = []
        if timestamp < self._now:  # the clock was set back, or a file began again
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
        for sighting in self._sightings(detections, tracks, size, captured):
            events += self._look(sighting)
        return events

    @abstractmethod
    def tally(self) -> Tally:
        """The counts now; a copy that stays as it is."""

    @abstractmethod
    def _look(self, sighting: _Sighting) -> list[Event]:
        """What happened to an object with this sighting."""

    def _gone(self, seen: AnySeen) -> list[Event]:  # noqa: ARG002
        """What happened with an object that is no longer seen."""
        return []

    def _sightings(
        self, detections: Detections, tracks: npt.NDArray[np.int64], size: tuple[int, int], captured: datetime
    ) -> Iterator[_Sighting]:
        rows = zip(
            tracks.tolist(), detections.names, detections.scores.tolist(), detections.boxes.tolist(), strict=True
        )
        for track, name, score, (x1, y1, x2, y2) in rows:
            if track >= 0 and (not self._region.classes or name in self._region.classes):
                point = ((x1 + x2) / 2, y2 if self._anchor == "bottom" else (y1 + y2) / 2)
                margin = self._hysteresis * min(x2 - x1, y2 - y1)
                yield _Sighting(track, name, score, (x1, y1, x2, y2), point, margin, size, captured)

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
        )


@dataclass
class _Inside(_Seen):
    """A track inside a zone, and the class it entered as: as such it leaves, whatever it is taken for meanwhile."""

    class_name: str


class ZoneCounter(RegionCounter[Zone, _Inside]):
    """Who is in a zone now, who entered it, who left.

    The border is inside. An object enters with the first anchor inside, also when it appears there; it leaves with
    the first beyond the border by the hysteresis, or when it has not been seen for ``gone_seconds``.
    """

    def tally(self) -> Tally:
        """The counts now; a copy that stays as it is."""
        return Tally(
            self._region,
            {
                # Subtraction keeps what is above 0.
                "inside": dict(self._came - self._went),
                "entered": dict(self._came),
                "left": dict(self._went),
            },
        )

    def _look(self, sighting: _Sighting) -> list[Event]:
        distance = cv2.pointPolygonTest(self._points, sighting.point, measureDist=True)
        seen = self._seen.get(sighting.track)
        if seen is None:
            if distance < 0:
                return []
            self._seen[sighting.track] = _Inside(sighting, self._now, sighting.class_name)
            self._came[sighting.class_name] += 1
            return [self._event("entered", None, sighting)]
        seen.last, seen.timestamp = sighting, self._now
        if distance >= -sighting.margin:
            return []
        del self._seen[sighting.track]
        return self._gone(seen)

    def _gone(self, seen: _Inside) -> list[Event]:
        self._went[seen.class_name] += 1
        return [self._event("left", None, dataclasses.replace(seen.last, class_name=seen.class_name))]


@dataclass
class _Path(_Seen):
    """A track's way about a line.

    Attributes:
        distance: signed, from the line through both points to the last anchor, pixels, above 0 on the side of "in".
        near: side of the last anchor that was not on the line: 1, -1, or 0 for none yet.
        side: the last side on which it was beyond the hysteresis; 0 for none yet.
        net: passages through the line since then, "in" less "out"; those around its ends are not among them.
    """

    distance: float
    near: int = 0
    side: int = 0
    net: int = 0


class LineCounter(RegionCounter[Line, _Path]):
    """Who crossed a line, and which way.

    A crossing is counted when the object has been beyond the hysteresis on one side, is beyond it on the other, and
    went through the line itself in between, not around its ends. Frames without it do not matter: its way between
    two sightings is taken as straight.
    """

    def tally(self) -> Tally:
        """The counts now; a copy that stays as it is."""
        return Tally(self._region, {"in": dict(self._came), "out": dict(self._went)})

    def _look(self, sighting: _Sighting) -> list[Event]:
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
        (self._came if near > 0 else self._went)[sighting.class_name] += 1
        return [self._event("crossed", "in" if near > 0 else "out", sighting)]

    def _distance(self, point: Point) -> float:
        (x1, y1), (x2, y2) = self._points.tolist()
        return ((x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1)) / math.hypot(x2 - x1, y2 - y1)

    def _through(self, before: Point, before_distance: float, after: Point, after_distance: float) -> bool:
        """Whether the way between two points on different sides goes through the line and not past its ends."""
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
    """A counter for each of the regions that are for ``stream``, in their order."""
    found: list[ZoneCounter | LineCounter] = []
    for region in regions:
        if region.applies_to(stream):
            if isinstance(region, Zone):
                found.append(
                    ZoneCounter(region, stream=stream, anchor=anchor, hysteresis=hysteresis, gone_seconds=gone_seconds)
                )
            else:
                found.append(
                    LineCounter(region, stream=stream, anchor=anchor, hysteresis=hysteresis, gone_seconds=gone_seconds)
                )
    return found


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
