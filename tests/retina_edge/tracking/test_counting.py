"""Counting in zones and at lines, compared with cases counted by hand and with slow reference implementations."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from retina_edge import Detections
from retina_edge.tracking.counting import LineCounter
from retina_edge.tracking.events import Event
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.zone_counter import ZoneCounter
from retina_edge.tracking.zones import Line, Zone, line, zone

NAMES = ("person", "car")
SIZE = (400, 600)
NOON = datetime(2024, 5, 6, 12, tzinfo=timezone.utc)
SQUARE = zone("gate=100,100px 300,100px 300,300px 100,300px")
ACROSS = line("door=100,200px 300,200px")  # "in" is down


def detections_at(points: Sequence[tuple[float, float]], labels: Sequence[int] | None = None) -> Detections:
    """Return boxes of 20x20 pixels with the middle of the lower side at ``points``. Their hysteresis is 2 pixels."""
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
    """Move one object through ``points`` and return its events. None is a frame without the object."""
    events = []
    for i, point in enumerate(points):
        seconds = start + i * step
        events += counter.update(
            detections_at([] if point is None else [point], [] if point is None else [label]),
            np.array([] if point is None else [track], np.int64),
            size=size,
            timestamp=seconds,
            captured=NOON + timedelta(seconds=seconds),
            position=seconds,
        )
    return events


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.direction or event.kind for event in events]


# Zones


def test_an_empty_zone_counts_nothing() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    assert feed(counter, [None] * 3) == []
    assert counter.tally() == Tally(SQUARE, {"inside": {}, "entered": {}, "left": {}})
    assert counter.tally().counts == {"inside": 0, "entered": 0, "left": 0}


def test_an_object_enters_and_leaves() -> None:
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
        timestamp=0.2,
    )
    assert (left.kind, left.box, left.counts) == ("left", (295, 180, 315, 200), {"inside": 0, "entered": 1, "left": 1})


def test_objects_are_counted_by_class() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    tracks = np.array([7, -1, 8, 9, 10], np.int64)
    frame = detections_at([(150, 150), (160, 160), (200, 200), (90, 90), (250, 250)], [0, 0, 1, 1, 1])
    events = counter.update(frame, tracks, size=SIZE, timestamp=0, captured=NOON)
    assert [(event.track, event.class_name) for event in events] == [(7, "person"), (8, "car"), (10, "car")]
    assert [event.counts["inside"] for event in events] == [1, 2, 3]
    assert counter.tally().by_class["inside"] == {"person": 1, "car": 2}


def test_only_the_classes_of_the_region_are_counted() -> None:
    counter = ZoneCounter(zone("gate@car=100,100px 300,100px 300,300px 100,300px"), stream="yard")
    assert feed(counter, [(200, 200)] * 2, label=0) == []
    assert kinds(feed(counter, [(200, 200)] * 2, label=1, track=2)) == ["entered"]


def test_an_object_that_jitters_on_the_border_enters_once() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    assert kinds(feed(counter, [(98.5, 200), (101, 200)] * 50)) == ["entered"]
    assert kinds(feed(counter, [(97, 200)], start=10)) == ["left"]


def test_without_hysteresis_all_jitter_counts() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", hysteresis=0)
    assert kinds(feed(counter, [(98.5, 200), (101, 200)] * 2)) == ["entered", "left", "entered"]


def test_an_object_that_vanishes_inside_leaves_after_gone_seconds() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", gone_seconds=2.0)
    events = feed(counter, [(200, 200), (210, 210), *[None] * 20])
    assert kinds(events) == ["entered"]
    (left,) = feed(counter, [None] * 5, start=2.2)
    assert (left.kind, left.box) == ("left", (200, 190, 220, 210))
    assert left.captured == NOON + timedelta(seconds=0.1)  # time of the last sighting
    assert left.counts == {"inside": 0, "entered": 1, "left": 1}


def test_an_object_that_reappears_in_time_has_not_left() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", gone_seconds=2.0)
    assert kinds(feed(counter, [(200, 200), *[None] * 18, (200, 200), *[None] * 18, (200, 200)])) == ["entered"]


def test_a_clock_set_back_neither_loses_objects_nor_keeps_them_forever() -> None:
    counter = ZoneCounter(SQUARE, stream="yard", gone_seconds=2.0)
    assert kinds(feed(counter, [(200, 200)], start=1000)) == ["entered"]
    assert feed(counter, [None], start=5) == []
    assert feed(counter, [None], start=6.9) == []
    assert kinds(feed(counter, [None], start=7.1)) == ["left"]


def test_a_change_of_frame_size_empties_the_zone() -> None:
    counter = ZoneCounter(zone("gate=0,0 0.5,0 0.5,0.5 0,0.5"), stream="yard")
    assert kinds(feed(counter, [(200, 100)])) == ["entered"]
    events = feed(counter, [(200, 100), (250, 100)], start=0.1, track=2, size=(200, 400))
    assert [(event.kind, event.track, event.size) for event in events] == [
        ("left", 1, SIZE),
        ("entered", 2, (200, 400)),
        ("left", 2, (200, 400)),
    ]


def test_a_track_leaves_with_the_class_that_it_entered_with() -> None:
    counter = ZoneCounter(SQUARE, stream="yard")
    assert feed(counter, [(200, 200)], label=0)[0].class_name == "person"
    assert feed(counter, [(50, 50)], label=1, start=0.1)[0].class_name == "person"
    assert counter.tally().by_class["inside"] == {}


def test_the_anchor_point_decides() -> None:
    # The box's lower side is outside, its middle inside.
    assert feed(ZoneCounter(SQUARE, stream="yard"), [(200, 305)]) == []
    assert kinds(feed(ZoneCounter(SQUARE, stream="yard", anchor="center"), [(200, 305)])) == ["entered"]


def test_points_outside_the_frame_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        feed(ZoneCounter(SQUARE, stream="yard"), [None] * 3, size=(200, 300))
    assert [record.message for record in caplog.records] == [
        "gate: has points outside the frame of 300x200 pixels; give points from 0 to 1 if the frame size can change"
    ]


def test_tracks_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(1,\), one per detection, got \(2,\)"):
        ZoneCounter(SQUARE, stream="a").update(
            detections_at([(1, 1)]), np.zeros(2, np.int64), size=SIZE, timestamp=0, captured=NOON
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor": "top"}, "anchor: expected bottom or center, got 'top'"),
        ({"hysteresis": -1}, "hysteresis"),
        ({"gone_seconds": float("nan")}, "gone_seconds"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZoneCounter(SQUARE, stream="a", **options)  # type: ignore[arg-type]


# Lines


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(200, y) for y in range(150, 260, 10)], ["in"]),
        ([(200, y) for y in range(250, 140, -10)], ["out"]),
        ([(200, 150), (200, 250)], ["in"]),  # in one jump
        ([(200, 190), *[None] * 5, (200, 215), (200, 250)], ["in"]),  # unseen while on the line
        ([(200, 150), (200, 199), (200, 201.5), (200, 199), (200, 150)], []),  # beyond the line by less than 2 pixels
        ([(200, 190), *[(200, 199), (200, 201)] * 50, (200, 210)], ["in"]),  # jitters
        ([(200, 190), *[(200, 199), (200, 201)] * 50, (200, 190)], []),
        ([(200, 200), (200, 200), (200, 210)], []),  # starts on the line
        ([(200, 199), (200, 210)], []),  # starts too close to the line
        ([(200, 190), (200, 200), (200, 200), (200, 210)], ["in"]),  # stops on the line
        ([(200, 190), (200, 210), (200, 190), (200, 210)], ["in", "out", "in"]),
        ([(50, 150), (50, 250)], []),  # passes beside the line
        ([(200, 150), (350, 150), (350, 250), (200, 250)], []),  # goes around the end of the line
        ([(200, 150), (350, 150), (350, 250), (200, 250), (200, 150)], ["out"]),
        ([(200, 150), (200, 250), (350, 250), (350, 150), (200, 150), (200, 250)], ["in", "in"]),
        ([(50, 150), (150, 250)], ["in"]),  # diagonal, exactly through the end point of the line
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


def test_in_is_to_the_right_of_the_direction_of_the_line() -> None:
    up = line("a=300,300px 300,100px")
    assert kinds(feed(LineCounter(up, stream="a"), [(200, 200), (400, 200)])) == ["in"]
    assert kinds(feed(LineCounter(line("a=300,200px 100,200px"), stream="a"), [(200, 150), (200, 250)])) == ["out"]


def test_objects_cross_independently_and_by_class() -> None:
    counter = LineCounter(ACROSS, stream="yard")
    for y in (180, 195, 210, 225):
        frame = detections_at([(150, y), (200, 400 - y), (250, y), (270, y)], [0, 1, 1, 0])
        counter.update(frame, np.array([1, 2, 3, -1], np.int64), size=SIZE, timestamp=y, captured=NOON)
    assert counter.tally().by_class == {"in": {}, "out": {}}  # the frames are so far apart that every track expires
    for i, y in enumerate((180, 195, 210, 225)):
        frame = detections_at([(150, y), (200, 400 - y), (250, y), (270, y)], [0, 1, 1, 0])
        counter.update(frame, np.array([1, 2, 3, -1], np.int64), size=SIZE, timestamp=300 + i / 10, captured=NOON)
    assert counter.tally().by_class == {"in": {"person": 1, "car": 1}, "out": {"car": 1}}


def test_expired_tracks_are_forgotten() -> None:
    counter = LineCounter(ACROSS, stream="yard", gone_seconds=1.0)
    for track in range(500):
        feed(counter, [(200, 150)], track=track, start=track / 10)
    assert len(counter._seen) <= 11


# Zones and lines, against reference implementations


def winds_around(polygon: list[tuple[int, int]], x: float, y: float) -> bool:
    """True if a polygon of integers winds around a point, or the point lies on a side."""
    winding = 0
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        cross = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
        if cross == 0 and min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(y1, y2):
            return True
        winding += (y1 <= y < y2 and cross > 0) - (y2 <= y < y1 and cross < 0)
    return winding != 0


@pytest.mark.parametrize("seed", range(8))
def test_zone_counts_equal_those_of_winding_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 12))))
    radii = rng.uniform(30, 190, len(angles))
    polygon = [(round(300 + r * np.cos(a)), round(200 + r * np.sin(a))) for a, r in zip(angles, radii, strict=True)]
    counter = ZoneCounter(Zone("gate", tuple(polygon), "px"), stream="a", hysteresis=0)
    positions = rng.integers(0, 400, (30, 2)) + 0.5
    inside = np.zeros(30, np.bool_)
    entered = left = 0
    for frame in range(60):
        positions = np.clip(positions + rng.integers(-25, 26, positions.shape), 0, 600)
        now = np.array([winds_around(polygon, x, y) for x, y in positions.tolist()])
        entered, left = entered + int((now & ~inside).sum()), left + int((inside & ~now).sum())
        inside = now
        points = [(x, y) for x, y in positions.tolist()]
        counter.update(detections_at(points), np.arange(30), size=(600, 600), timestamp=frame / 10, captured=NOON)
        assert counter.tally().counts == {"inside": int(inside.sum()), "entered": entered, "left": left}
    assert entered > 10
    assert left > 10


@pytest.mark.parametrize("seed", range(8))
def test_line_counts_equal_those_of_segment_intersections(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Objects lie on half pixels, which the line never touches, because its width is even and its height is odd.
    start, end = (100 + int(rng.integers(50)), 60), (300 + int(rng.integers(50)), 261)
    end = (end[0] - (end[0] - start[0]) % 2, end[1])
    counter = LineCounter(Line("door", (start, end), "px"), stream="a", hysteresis=0)

    def turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    positions = rng.integers(50, 400, (20, 2)) + 0.5
    expected = {"in": 0, "out": 0}
    for frame in range(80):
        previous = positions
        positions = np.clip(positions + rng.integers(-40, 41, positions.shape), 0.5, 449.5)
        for a, b in zip(previous.tolist(), positions.tolist(), strict=True):
            sides = turn(start, end, a), turn(start, end, b)
            if frame > 0 and sides[0] * sides[1] < 0 and turn(a, b, start) * turn(a, b, end) <= 0:
                expected["in" if sides[1] > 0 else "out"] += 1
        points = [(x, y) for x, y in positions.tolist()]
        counter.update(detections_at(points), np.arange(20), size=(450, 450), timestamp=frame / 10, captured=NOON)
        assert counter.tally().counts == expected
    assert min(expected.values()) > 10


@pytest.mark.parametrize("seed", range(5))
def test_a_jittering_path_counts_the_same_as_a_smooth_one(seed: int) -> None:
    """The object crosses the line back and forth several times, and its box jitters by less than the hysteresis."""
    rng = np.random.default_rng(seed)
    turns = int(rng.integers(1, 6))
    smooth = 200 - 30 * np.cos(np.linspace(0, turns * np.pi, 100 * turns))
    points = [
        (float(x), float(y))
        for x, y in zip(rng.uniform(150, 250, len(smooth)), smooth + rng.uniform(-1.9, 1.9, len(smooth)), strict=True)
    ]
    assert kinds(feed(LineCounter(ACROSS, stream="a"), points)) == (["in", "out"] * 3)[:turns]


# Events


def test_an_event_converts_to_json() -> None:
    (event,) = feed(LineCounter(ACROSS, stream="höf"), [(200, 190), (200.123, 210)])
    assert json.loads(json.dumps(event.to_dict())) == {
        "time": "2024-05-06T12:00:00.100Z",
        "timestamp": 0.1,
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
        "dwell": None,
    }


@pytest.mark.parametrize(
    ("kind", "direction", "captured", "message"),
    [
        ("crossed", None, NOON, "direction: expected in or out"),
        ("entered", "in", NOON, "direction: expected"),
        ("left", None, datetime(2024, 5, 6), "captured: expected a time in UTC"),
        ("left", None, NOON.astimezone(timezone(timedelta(hours=2))), "captured: expected a time in UTC"),
    ],
)
def test_invalid_events_are_refused(kind: str, direction: str | None, captured: datetime, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Event(kind, "a", "gate", direction, 1, "car", 0.5, (0, 0, 1, 1), SIZE, captured, {})  # type: ignore[arg-type]
