"""The counter of a zone: objects that enter and leave it, and the time that they stay, their dwell time."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import cv2

from retina_edge.tracking.events import Event
from retina_edge.tracking.region_counter import RegionCounter, Seen, Sighting, Tally, Visit
from retina_edge.tracking.zones import Point, Zone, check_dwell

# Largest number of frames that inertia looks at.
MAX_FRAMES = 1000
# Times of frames are rounded: a limit on the dwell time is reached up to this many seconds early.
CLOCK_ERROR = 1e-6


@dataclass(frozen=True)
class Inertia:
    """A rule against flicker: an object changes sides after ``needed`` of its last ``frames`` frames on the other side.

    Only frames with the object count. The default changes sides in the first frame.

    Raises:
        ValueError: if ``needed`` is not between 1 and ``frames``, or ``frames`` is above ``MAX_FRAMES``.

    Examples:
        >>> Inertia(3, 5)
        Inertia(needed=3, frames=5)
    """

    needed: int = 1
    frames: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.frames <= MAX_FRAMES:
            raise ValueError(f"inertia: expected M/N with 1 <= M <= N <= {MAX_FRAMES}, got {self.needed}/{self.frames}")


def inertia(text: str) -> Inertia:
    """Parse ``M/N``, as the ``type`` of an argparse argument.

    Raises:
        ArgumentTypeError: if the text is not two numbers with 1 <= M <= N.

    Examples:
        >>> inertia("3/5")
        Inertia(needed=3, frames=5)
    """
    needed, slash, frames = text.partition("/")
    if not slash or not needed.isdecimal() or not frames.isdecimal():
        raise argparse.ArgumentTypeError(f"expected M/N, for instance 3/5 for 3 of 5 frames, got {text!r}")
    try:
        return Inertia(int(needed), int(frames))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass
class _Presence(Seen):
    """A track in a zone, or one that may soon be in it.

    Attributes:
        class_name: class on entering. The object leaves as this class, even if its class changes inside.
        votes: for the last frames, True if the object was on the other side of the border.
        since: time at which the object entered; None while it is outside.
        dwelled: True once the object has stayed as long as the zone's limit.
    """

    class_name: str
    votes: deque[bool]
    since: float | None = None
    dwelled: bool = field(default=False)

    @property
    def dwell(self) -> float:
        """Seconds from entering to the last sighting; 0 outside."""
        return 0.0 if self.since is None else self.timestamp - self.since

    def set_clock(self, timestamp: float) -> None:
        """Keep the dwell time when the clock is set back."""
        if self.since is not None:
            self.since += timestamp - self.timestamp
        super().set_clock(timestamp)


class ZoneCounter(RegionCounter[Zone, _Presence]):
    """A counter for the objects that are in a zone, that entered it, that left it and that dwelled in it.

    The border belongs to the zone. An object enters as soon as its anchor point is inside, even if the object appears
    there. An object leaves when its anchor point is outside by more than the hysteresis, or when the object has not
    been seen for ``gone_seconds``. With inertia, it enters and leaves only after several such frames.

    Args:
        region: the zone.
        dwell: seconds after which an object dwells, once per visit, for a zone that has no limit; None for never.
        inertia: rule against flicker; None for none.
        options: further arguments of ``RegionCounter``.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self, region: Zone, *, dwell: float | None = None, inertia: Inertia | None = None, **options: Any
    ) -> None:
        super().__init__(region, **options)
        if dwell is not None:
            check_dwell(dwell)
        self._default_dwell = dwell
        self._inertia = inertia or Inertia()
        self._dwelled: Counter[str] = Counter()
        self._visit_seconds: dict[str, float] = {}

    def tally(self) -> Tally:
        """Return a copy of the current counts."""
        visits = tuple(
            Visit(track, seen.class_name, seen.dwell) for track, seen in self._seen.items() if seen.since is not None
        )
        by_class = {
            "inside": dict(Counter(visit.class_name for visit in visits)),
            "entered": dict(self._incoming),
            "left": dict(self._outgoing),
        }
        if self._limit is not None:
            by_class["dwelled"] = dict(self._dwelled)
        return Tally(self._region, by_class, visits, dict(self._visit_seconds))

    @property
    def _limit(self) -> float | None:
        return self._default_dwell if self._region.dwell is None else self._region.dwell

    def _see(self, sighting: Sighting) -> list[Event]:
        distance = self._distance(sighting.point)
        seen = self._seen.get(sighting.track)
        inside = seen is not None and seen.since is not None
        other_side = distance < -sighting.margin if inside else distance >= 0
        if seen is None:
            if not other_side:
                return []
            seen = self._seen[sighting.track] = self._presence(Seen(sighting, self._now))
        seen.last, seen.timestamp = sighting, self._now
        seen.votes.append(other_side)
        if sum(seen.votes) >= self._inertia.needed:
            seen.votes.clear()
            if inside:
                del self._seen[sighting.track]
                return self._gone(seen)
            return self._enter(seen)
        if not inside and not any(seen.votes):
            del self._seen[sighting.track]
        return self._stay(seen) if inside else []

    def _enter(self, seen: _Presence) -> list[Event]:
        seen.since, seen.class_name = seen.timestamp, seen.last.class_name
        self._incoming[seen.class_name] += 1
        return [self._event("entered", None, seen.last)]

    def _stay(self, seen: _Presence) -> list[Event]:
        if self._limit is None or seen.dwelled or seen.dwell < self._limit - CLOCK_ERROR:
            return []
        seen.dwelled = True
        self._dwelled[seen.class_name] += 1
        return [self._event("dwelled", None, _as_entered(seen), dwell=seen.dwell)]

    def _gone(self, seen: _Presence) -> list[Event]:
        if seen.since is None:
            return []
        self._outgoing[seen.class_name] += 1
        self._visit_seconds[seen.class_name] = self._visit_seconds.get(seen.class_name, 0.0) + seen.dwell
        return [self._event("left", None, _as_entered(seen), dwell=seen.dwell)]

    def _settle(self) -> None:
        settled: dict[int, _Presence] = {}
        for track, known in self._known.items():
            seen = self._seen.get(track)
            inside = seen is not None and seen.since is not None
            border = -known.last.margin if inside else 0.0
            if self._counts(known.last.class_name) and self._distance(known.last.point) >= border:
                settled[track] = seen if seen is not None and inside else self._presence(known, since=known.timestamp)
                settled[track].votes.clear()
        self._seen = settled

    def _presence(self, known: Seen, since: float | None = None) -> _Presence:
        votes: deque[bool] = deque(maxlen=self._inertia.frames)
        return _Presence(known.last, known.timestamp, known.last.class_name, votes, since)

    def _distance(self, point: Point) -> float:
        """Distance from the border in pixels, negative outside."""
        return float(cv2.pointPolygonTest(self._points, point, measureDist=True))


def _as_entered(seen: _Presence) -> Sighting:
    """The last sighting, with the class that the object had on entering."""
    return dataclasses.replace(seen.last, class_name=seen.class_name)
