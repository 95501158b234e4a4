"""Counters for the zones and lines of one stream. The counter of a line counts the objects that cross it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retina_edge.tracking.events import Event
from retina_edge.tracking.region_counter import (
    HYSTERESIS,
    VANISHED_SECONDS,
    Anchor,
    RegionCounter,
    Seen,
    Sighting,
    Tally,
)
from retina_edge.tracking.zone_counter import Inertia, ZoneCounter
from retina_edge.tracking.zones import Line, Point, Zone


@dataclass
class _Path(Seen):
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

    def _see(self, sighting: Sighting) -> list[Event]:
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

    def _settle(self) -> None:
        self._seen.clear()

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
    dwell: float | None = None,
    inertia: Inertia | None = None,
) -> list[ZoneCounter | LineCounter]:
    """Return a counter for each region that applies to ``stream``, in order. For the options, see ``ZoneCounter``.

    Examples:
        >>> regions = [Line("door", ((0.1, 0.5), (0.9, 0.5)), stream="yard")]
        >>> [counter.tally().counts for counter in make_counters(regions, stream="yard")]
        [{'in': 0, 'out': 0}]
    """
    options: Any = {"stream": stream, "anchor": anchor, "hysteresis": hysteresis, "gone_seconds": gone_seconds}
    return [
        ZoneCounter(region, **options, dwell=dwell, inertia=inertia)
        if isinstance(region, Zone)
        else LineCounter(region, **options)
        for region in regions
        if region.applies_to(stream)
    ]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
