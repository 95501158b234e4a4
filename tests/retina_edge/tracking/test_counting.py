"""Counting in zones and at lines, against cases counted by hand and slow references."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from retina_edge import Detections
from retina_edge.tracking.counting import LineCounter, Tally, ZoneCounter
from retina_edge.tracking.events import Event
from retina_edge.tracking.zones import Line, Zone, line, zone

NAMES = ("person", "car")
SIZE = (400, 600)
NOON = datetime(2024, 5, 6, 12, tzinfo=timezone.utc)
SQUARE = zone("gate=100,100px 300,100px 300,300px 100,300px")
ACROSS = line("door=100,200px 300,200px")  # "in" is down


def found(points: Sequence[tuple[float, float]], labels: Sequence[int] | None = None) -> Detections:
    """Boxes of 20x20 pixels whose lower side has its middle at ``points``: the hysteresis is 2 pixels."""
    boxes = [(x - 10, y - 20, x + 10, y) for x, y in points]
    count = len(points)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(count, 0.75, np.float32),
        np.array([0] * count if labels is None else labels, np.int32),
        NAMES,
        (1, 2),
    )


def feed(
    counter: ZoneCounter | LineCounter,
    points: Sequence[tuple[float, float] | None],
    *,
    track: int = 1,
    label: int = 0,
    start: float = 0.0,
    step: float = 0.1,
    size: tuple[int, int] = SIZE,
) -> list[Event]:
    """One object's events; None is a frame without it."""
    events = []
    for i, point in enumerate(points):
        at = start + i * step
        events += counter.update(
            found([] if point is None else [point], [] if point is None else [label]),
            np.array([] if point is None else [track], np.int64),
            size=size,
            timestamp=at,
            captured=NOON + timedelta(seconds=at),
        )
    return events


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.direction or event.kind for event in events]


# Zones


def test_nobody_is_nobody() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    assert feed(counter, [None] * 3) == []
    assert counter.tally() == Tally(SQUARE, {"inside": {}, "entered": {}, "left": {}})
    assert counter.tally().counts == {"inside": 0, "entered": 0, "left": 0}


def test_one_enters_and_leaves() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    entered, left = feed(counter, [(80, 200), (99, 200), (120, 200), (305, 200), (320, 200)])
    assert entered == Event(
        kind="entered",
        stream="yard",
        region="gate",
        direction=None,
        track=1,
        class_name="person",
        score=0.75,
        box=(110, 180, 130, 200),
        size=SIZE,
        captured=NOON + timedelta(seconds=0.2),
        counts={"inside": 1, "entered": 1, "left": 0},
    )
    assert (left.kind, left.box, left.counts) == ("left", (295, 180, 315, 200), {"inside": 0, "entered": 1, "left": 1})


def test_many_are_counted_by_class() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    tracks = np.array([7, -1, 8, 9, 10], np.int64)
    frame = found([(150, 150), (160, 160), (200, 200), (90, 90), (250, 250)], [0, 0, 1, 1, 1])
    events = counter.update(frame, tracks, size=SIZE, timestamp=0, captured=NOON)
    assert [(event.track, event.class_name) for event in events] == [(7, "person"), (8, "car"), (10, "car")]
    assert [event.counts["inside"] for event in events] == [1, 2, 3]
    assert counter.tally().by_class["inside"] == {"person": 1, "car": 2}


def test_only_the_classes_asked_for() -> None:
    counter = ZoneCounter(zone("gate@car=100,100px 300,100px 300,300px 100,300px"), stream="yard")
    assert feed(counter, [(200, 200)] * 2, label=0) == []
    assert kinds(feed(counter, [(200, 200)] * 2, label=1, track=2)) == ["entered"]


def test_trembling_on_the_border_enters_once() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    assert kinds(feed(counter, [(98.5, 200), (101, 200)] * 50)) == ["entered"]
    assert kinds(feed(counter, [(97, 200)], start=10)) == ["left"]


def test_without_hysteresis_every_tremble_counts() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", hysteresis=0)
    assert kinds(feed(counter, [(98.5, 200), (101, 200)] * 2)) == ["entered", "left", "entered"]


def test_who_vanishes_inside_leaves_after_a_time() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", gone_seconds=2.0)
    events = feed(counter, [(200, 200), (210, 210), *[None] * 20])
    assert kinds(events) == ["entered"]
    (left,) = feed(counter, [None] * 5, start=2.2)
    assert (left.kind, left.box) == ("left", (200, 190, 220, 210))
    assert left.captured == NOON + timedelta(seconds=0.1)  # of the last sighting
    assert left.counts == {"inside": 0, "entered": 1, "left": 1}


def test_who_is_seen_again_in_time_did_not_leave() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", gone_seconds=2.0)
    assert kinds(feed(counter, [(200, 200), *[None] * 18, (200, 200), *[None] * 18, (200, 200)])) == ["entered"]


def test_a_clock_set_back_loses_nobody_and_keeps_nobody() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", gone_seconds=2.0)
    assert kinds(feed(counter, [(200, 200)], start=1000)) == ["entered"]
    assert feed(counter, [None], start=5) == []
    assert feed(counter, [None], start=6.9) == []
    assert kinds(feed(counter, [None], start=7.1)) == ["left"]


def test_another_size_empties_the_zone() -> None:
    counter = ZoneCounter(zone("gate=0,0 0.5,0 0.5,0.5 0,0.5"), stream="yard")
    assert kinds(feed(counter, [(200, 100)])) == ["entered"]
    events = feed(counter, [(200, 100), (250, 100)], start=0.1, track=2, size=(200, 400))
    assert [(event.kind, event.track, event.size) for event in events] == [
        ("left", 1, SIZE),
        ("entered", 2, (200, 400)),
        ("left", 2, (200, 400)),
    ]


def test_a_track_leaves_as_the_class_it_entered_as() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    assert feed(counter, [(200, 200)], label=0)[0].class_name == "person"
    assert feed(counter, [(50, 50)], label=1, start=0.1)[0].class_name == "person"
    assert counter.tally().by_class["inside"] == {}


def test_the_anchor_decides() -> None:
    # The box's lower side is outside, its middle inside.
    assert feed(ZoneCounter(SQUARE, stream="yard"), [(200, 305)]) == []
    assert kinds(feed(ZoneCounter(SQUARE, stream="yard", anchor="centre"), [(200, 305)])) == ["entered"]


def test_points_outside_the_frame_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        feed(ZoneCounter(SQUARE, stream="yard"), [None] * 3, size=(200, 300))
    assert [record.message for record in caplog.records] == [
        "gate: has points outside the frame of 300x200 pixels; give them as 0 to 1 if the size can change"
    ]


def test_a_track_for_each_detection() -> None:
    with pytest.raises(ValueError, match="a track for each of 1 detections"):
        ZoneCounter(SQUARE, stream="a").update(
            found([(1, 1)]), np.zeros(2, np.int64), size=SIZE, timestamp=0, captured=NOON
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"anchor": "top"}, "anchor: expected bottom or centre, got 'top'"),
        ({"hysteresis": -1}, "hysteresis"),
        ({"gone_seconds": float("nan")}, "gone_seconds"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ZoneCounter(SQUARE, stream="a", **options)  # type: ignore[arg-type]


# Lines


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(200, y) for y in range(150, 260, 10)], ["in"]),
        ([(200, y) for y in range(250, 140, -10)], ["out"]),
        ([(200, 150), (200, 250)], ["in"]),  # in one jump
        ([(200, 190), *[None] * 5, (200, 215), (200, 250)], ["in"]),  # not seen on the line
        ([(200, 150), (200, 199), (200, 201.5), (200, 199), (200, 150)], []),  # not beyond it by 2 pixels
        ([(200, 190), *[(200, 199), (200, 201)] * 50, (200, 210)], ["in"]),  # trembles
        ([(200, 190), *[(200, 199), (200, 201)] * 50, (200, 190)], []),
        ([(200, 200), (200, 200), (200, 210)], []),  # began on it
        ([(200, 199), (200, 210)], []),  # began too near it
        ([(200, 190), (200, 200), (200, 200), (200, 210)], ["in"]),  # stood on it
        ([(200, 190), (200, 210), (200, 190), (200, 210)], ["in", "out", "in"]),
        ([(50, 150), (50, 250)], []),  # beside it
        ([(200, 150), (350, 150), (350, 250), (200, 250)], []),  # around its end
        ([(200, 150), (350, 150), (350, 250), (200, 250), (200, 150)], ["out"]),
        ([(200, 150), (200, 250), (350, 250), (350, 150), (200, 150), (200, 250)], ["in", "in"]),
        ([(50, 150), (150, 250)], ["in"]),  # aslant, through the line's end itself
        ([(49, 150), (149, 250)], []),
        ([(200, 150)], []),
        ([None], []),
    ],
)
def test_crossings_counted_by_hand(points: list[tuple[float, float] | None], expected: list[str]) -> None:
    counter = LineCounter(ACROSS, stream="yard")
    events = feed(counter, points)
    assert kinds(events) == expected
    assert counter.tally().counts == {"in": expected.count("in"), "out": expected.count("out")}
    assert all(event.kind == "crossed" for event in events)


def test_in_is_to_the_right_hand() -> None:
    up = line("a=300,300px 300,100px")
    assert kinds(feed(LineCounter(up, stream="a"), [(200, 200), (400, 200)])) == ["in"]
    assert kinds(feed(LineCounter(line("a=300,200px 100,200px"), stream="a"), [(200, 150), (200, 250)])) == ["out"]


def test_objects_cross_independently_and_by_class() -> None:
    counter = LineCounter(ACROSS, stream="yard")
    for y in (180, 195, 210, 225):
        frame = found([(150, y), (200, 400 - y), (250, y), (270, y)], [0, 1, 1, 0])
        counter.update(frame, np.array([1, 2, 3, -1], np.int64), size=SIZE, timestamp=y, captured=NOON)
    assert counter.tally().by_class == {"in": {}, "out": {}}  # so far apart in time that each was forgotten
    for i, y in enumerate((180, 195, 210, 225)):
        frame = found([(150, y), (200, 400 - y), (250, y), (270, y)], [0, 1, 1, 0])
        counter.update(frame, np.array([1, 2, 3, -1], np.int64), size=SIZE, timestamp=300 + i / 10, captured=NOON)
    assert counter.tally().by_class == {"in": {"person": 1, "car": 1}, "out": {"car": 1}}


def test_tracks_that_went_away_are_forgotten() -> None:
    counter = LineCounter(ACROSS, stream="yard", gone_seconds=1.0)
    for track in range(500):
        feed(counter, [(200, 150)], track=track, start=track / 10)
    assert len(counter._seen) <= 11


# Both, against references


def winds_around(polygon: list[tuple[int, int]], x: float, y: float) -> bool:
    """Whether a polygon of whole numbers winds around a point; sides with the point on them count as inside."""
    winding = 0
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        cross = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
        if cross == 0 and min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(y1, y2):
            return True
        winding += (y1 <= y < y2 and cross > 0) - (y2 <= y < y1 and cross < 0)
    return winding != 0


@pytest.mark.parametrize("seed", range(8))
def test_zones_against_winding_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 12))))
    radii = rng.uniform(30, 190, len(angles))
    polygon = [(round(300 + r * np.cos(a)), round(200 + r * np.sin(a))) for a, r in zip(angles, radii, strict=True)]
    counter = ZoneCounter(Zone("gate", tuple(polygon), "px"), stream="a", hysteresis=0)
    where = rng.integers(0, 400, (30, 2)) + 0.5
    inside = np.zeros(30, np.bool_)
    entered = left = 0
    for frame in range(60):
        where = np.clip(where + rng.integers(-25, 26, where.shape), 0, 600)
        now = np.array([winds_around(polygon, x, y) for x, y in where.tolist()])
        entered, left = entered + int((now & ~inside).sum()), left + int((inside & ~now).sum())
        inside = now
        points = [(x, y) for x, y in where.tolist()]
        counter.update(found(points), np.arange(30), size=(600, 600), timestamp=frame / 10, captured=NOON)
        assert counter.tally().counts == {"inside": int(inside.sum()), "entered": entered, "left": left}
    assert entered > 10
    assert left > 10


@pytest.mark.parametrize("seed", range(8))
def test_lines_against_segments_that_intersect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Points lie on half pixels, where the line never passes: its two steps are one even, one odd.
    start, end = (100 + int(rng.integers(50)), 60), (300 + int(rng.integers(50)), 261)
    end = (end[0] - (end[0] - start[0]) % 2, end[1])
    counter = LineCounter(Line("door", (start, end), "px"), stream="a", hysteresis=0)

    def turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    where = rng.integers(50, 400, (20, 2)) + 0.5
    expected = {"in": 0, "out": 0}
    for frame in range(80):
        before, where = where, np.clip(where + rng.integers(-40, 41, where.shape), 0.5, 449.5)
        for a, b in zip(before.tolist(), where.tolist(), strict=True):
            sides = turn(start, end, a), turn(start, end, b)
            if frame > 0 and sides[0] * sides[1] < 0 and turn(a, b, start) * turn(a, b, end) <= 0:
                expected["in" if sides[1] > 0 else "out"] += 1
        points = [(x, y) for x, y in where.tolist()]
        counter.update(found(points), np.arange(20), size=(450, 450), timestamp=frame / 10, captured=NOON)
        assert counter.tally().counts == expected
    assert min(expected.values()) > 10


@pytest.mark.parametrize("seed", range(5))
def test_trembling_paths_count_what_smooth_ones_do(seed: int) -> None:
    """Each object goes over the line and back some times; its box trembles by less than the hysteresis."""
    rng = np.random.default_rng(seed)
    turns = int(rng.integers(1, 6))
    smooth = 200 - 30 * np.cos(np.linspace(0, turns * np.pi, 100 * turns))
    points = [
        (float(x), float(y))
        for x, y in zip(rng.uniform(150, 250, len(smooth)), smooth + rng.uniform(-1.9, 1.9, len(smooth)), strict=True)
    ]
    assert kinds(feed(LineCounter(ACROSS, stream="a"), points)) == (["in", "out"] * 3)[:turns]


# Events


def test_an_event_is_json() -> None:
    (event,) = feed(LineCounter(ACROSS, stream="höf"), [(200, 190), (200.123, 210)])
    assert json.loads(json.dumps(event.to_dict())) == {
        "time": "2024-05-06T12:00:00.100Z",
        "stream": "höf",
        "kind": "crossed",
        "region": "door",
        "direction": "in",
        "track": 1,
        "class": "person",
        "score": 0.75,
        "box": [190.12, 190.0, 210.12, 210.0],
        "width": 600,
        "height": 400,
        "counts": {"in": 1, "out": 0},
    }


@pytest.mark.parametrize(
    ("kind", "direction", "captured", "says"),
    [
        ("crossed", None, NOON, "direction: expected in or out"),
        ("entered", "in", NOON, "direction: expected"),
        ("left", None, datetime(2024, 5, 6), "captured: expected a time in UTC"),
        ("left", None, NOON.astimezone(timezone(timedelta(hours=2))), "captured: expected a time in UTC"),
    ],
)
def test_events_that_cannot_be(kind: str, direction: str | None, captured: datetime, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Event(kind, "a", "gate", direction, 1, "car", 0.5, (0, 0, 1, 1), SIZE, captured, {})  # type: ignore[arg-type]
