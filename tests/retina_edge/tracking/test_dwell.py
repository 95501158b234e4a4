"""Dwell times, inertia and changes of regions, compared with a slow computation over all positions of a scene."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_edge.tracking.counting import LineCounter
from retina_edge.tracking.events import Event
from retina_edge.tracking.zone_counter import Inertia, ZoneCounter, inertia
from retina_edge.tracking.zones import Line, Zone, ZoneError, line, zone
from tests.retina_edge.tracking.test_counting import SIZE, detections_at

NOON = datetime(2024, 5, 6, 12, tzinfo=timezone.utc)
GATE = zone("gate=100,100px 300,100px 300,300px 100,300px")
MARGIN = 2.0  # of the boxes of ``detections_at``
STEP = 0.1
GONE = 2.0  # seconds, the counters' own

# Positions around the left border of the gate at x = 100: outside, within the hysteresis, inside; None is not seen.
POSITIONS = st.lists(st.sampled_from([60.0, 97.0, 99.0, 100.0, 150.0, None]), max_size=60)


def show(
    counter: ZoneCounter | LineCounter,
    points: Sequence[tuple[float, float] | None],
    *,
    seconds: float,
) -> list[Event]:
    """Show one frame: track i is at ``points[i]``, or is not seen."""
    seen = [track for track, point in enumerate(points) if point is not None]
    return counter.update(
        detections_at([point for point in points if point is not None]),
        np.array(seen, np.int64),
        size=SIZE,
        timestamp=seconds,
        captured=NOON,
        position=seconds,
    )


def reference(xs: Sequence[float | None], rule: Inertia, limit: float) -> list[tuple[int, str, float | None]]:
    """Return (frame, kind, dwell time) of the events of one object, by looking back over all its positions."""
    events: list[tuple[int, str, float | None]] = []
    frames = [i for i, x in enumerate(xs) if x is not None]  # frames with the object
    entered: int | None = None  # frame
    since = 0  # number of the first frame with the object that counts for the next change of sides
    dwelled = False
    for n, i in enumerate(frames):
        if n and (i - frames[n - 1]) * STEP > GONE + 1e-9:
            # The counter notices it in the first frame that is more than GONE after the last sighting.
            if entered is not None:
                noticed = next(k for k in range(frames[n - 1], i + 1) if (k - frames[n - 1]) * STEP > GONE + 1e-9)
                events.append((noticed, "left", (frames[n - 1] - entered) * STEP))
            entered, since = None, n
        window = [xs[k] for k in frames[max(since, n - rule.frames + 1) : n + 1]]
        inside = entered is not None
        votes = [x is not None and (x < 100 - MARGIN if inside else x >= 100) for x in window]
        if sum(votes) >= rule.needed:
            if entered is None:
                events.append((i, "entered", None))
                entered, dwelled = i, False
            else:
                events.append((i, "left", (i - entered) * STEP))
                entered = None
            since = n + 1
        elif entered is not None and not dwelled and (i - entered) * STEP >= limit - 1e-9:
            events.append((i, "dwelled", (i - entered) * STEP))
            dwelled = True
    return events


@given(
    tracks=st.lists(POSITIONS, min_size=1, max_size=3),
    rule=st.sampled_from([Inertia(), Inertia(1, 3), Inertia(2, 2), Inertia(2, 3), Inertia(3, 5)]),
    limit=st.sampled_from([0.1, 0.5, 1.0]),
)
@settings(max_examples=200, deadline=None)
def test_events_and_dwell_times_are_those_of_the_positions(
    tracks: list[list[float | None]], rule: Inertia, limit: float
) -> None:
    length = max(map(len, tracks))
    padded = [[*xs, *[None] * (length - len(xs))] for xs in tracks]
    counter = ZoneCounter(GATE, stream="yard", dwell=limit, inertia=rule)
    found: list[tuple[int, int, str, float | None]] = []
    for i in range(length):
        points = [None if xs[i] is None else (xs[i], 200.0) for xs in padded]
        for event in show(counter, points, seconds=i * STEP):  # type: ignore[arg-type]
            found.append((event.track, i, event.kind, event.dwell))
    expected = [(track, *event) for track, xs in enumerate(padded) for event in reference(xs, rule, limit)]
    # An object that is not seen again before the end may still be noticed as gone; the reference looks back only from
    # its next sighting.
    for track, xs in enumerate(padded):
        last = max((i for i, x in enumerate(xs) if x is not None), default=0)
        own = [event for event in expected if event[0] == track]
        state = [event for event in own if event[2] != "dwelled"]
        noticed = next((k for k in range(last, length) if (k - last) * STEP > GONE + 1e-9), None)
        if noticed is not None and state and state[-1][2] == "entered":
            expected.append((track, noticed, "left", (last - state[-1][1]) * STEP))
    rounded = [(*event[:3], None if event[3] is None else round(event[3], 6)) for event in expected]
    assert sorted((*e[:3], None if e[3] is None else round(e[3], 6)) for e in found) == sorted(rounded)
    kinds = Counter(kind for _, _, kind, _ in found)
    tally = counter.tally()
    assert tally.counts == {
        "inside": kinds["entered"] - kinds["left"],
        "entered": kinds["entered"],
        "left": kinds["left"],
        "dwelled": kinds["dwelled"],
    }
    ended = sum(dwell for _, _, kind, dwell in found if kind == "left" and dwell is not None)
    assert sum(tally.visit_seconds.values()) == pytest.approx(ended, abs=1e-9)


def test_an_object_dwells_once_per_visit() -> None:
    counter = ZoneCounter(GATE, stream="yard", dwell=0.5)
    path = [60.0, *[150.0] * 12, 60.0, *[150.0] * 4, 60.0, *[150.0] * 7]
    events = [event for i, x in enumerate(path) for event in show(counter, [(x, 200.0)], seconds=i * STEP)]
    # Frame 1 + 5 is 0.5 s after entering. The second visit ends after 0.4 s. The third begins in frame 19.
    told = [(round(event.timestamp or 0, 6), event.kind, event.dwell) for event in events]
    assert [(time, kind) for time, kind, _ in told] == [
        (0.1, "entered"),
        (0.6, "dwelled"),
        (1.3, "left"),
        (1.4, "entered"),
        (1.8, "left"),
        (1.9, "entered"),
        (2.4, "dwelled"),
    ]
    assert [dwell for *_, dwell in told if dwell is not None] == pytest.approx([0.5, 1.2, 0.4, 0.5])
    (visit,) = counter.tally().visits
    assert (visit.track, visit.class_name, round(visit.seconds, 6)) == (0, "person", 0.6)
    assert counter.tally().visit_seconds["person"] == pytest.approx(1.6)


def test_a_zone_has_a_limit_of_its_own() -> None:
    own = Zone("gate", GATE.points, unit="px", dwell=0.2)
    counter = ZoneCounter(own, stream="yard", dwell=5.0)
    events = [event for i in range(10) for event in show(counter, [(150.0, 200.0)], seconds=i * STEP)]
    assert [event.kind for event in events] == ["entered", "dwelled"]
    assert events[1].dwell == pytest.approx(0.2)


def test_without_a_limit_nothing_dwells_and_the_counts_are_as_before() -> None:
    counter = ZoneCounter(GATE, stream="yard")
    events = [event for i in range(100) for event in show(counter, [(150.0, 200.0)], seconds=float(i))]
    assert [event.kind for event in events] == ["entered"]
    assert counter.tally().counts == {"inside": 1, "entered": 1, "left": 0}
    assert counter.tally().visits[0].seconds == 99.0


@pytest.mark.parametrize(("rule", "entered", "left"), [(Inertia(), 8, 8), (Inertia(2, 3), 1, 0), (Inertia(2, 2), 1, 0)])
def test_inertia_ignores_flicker(rule: Inertia, entered: int, left: int) -> None:
    """The box jumps out of the zone in every fifth frame."""
    counter = ZoneCounter(GATE, stream="yard", inertia=rule)
    path = [150.0, 150.0, 150.0, 150.0, 60.0] * 8
    for i, x in enumerate(path):
        show(counter, [(x, 200.0)], seconds=i * STEP)
    assert (counter.tally().counts["entered"], counter.tally().counts["left"]) == (entered, left)


def test_a_clock_that_is_set_back_keeps_the_dwell_time() -> None:
    counter = ZoneCounter(GATE, stream="yard", dwell=1.0)
    show(counter, [(150.0, 200.0)], seconds=100.0)
    show(counter, [(150.0, 200.0)], seconds=100.6)
    assert show(counter, [(150.0, 200.0)], seconds=7.0) == []
    (event,) = show(counter, [(150.0, 200.0)], seconds=7.5)
    assert event.kind == "dwelled"
    assert event.dwell == pytest.approx(1.1)


# Changes of a region


def moved(points: str) -> Zone:
    return zone(f"gate={points}")


RIGHT = "320,100px 500,100px 500,300px 320,300px"


def test_a_move_keeps_the_totals_and_makes_no_crossing() -> None:
    """Track 0 stands in the old zone, track 1 in the new one, track 2 in neither; none of them moves."""
    counter = ZoneCounter(GATE, stream="yard", dwell=0.25)
    points: list[tuple[float, float] | None] = [(150.0, 200.0), (400.0, 200.0), (550.0, 200.0)]
    assert [event.kind for event in show(counter, points, seconds=0.0)] == ["entered"]
    show(counter, points, seconds=0.1)
    counter.replace(moved(RIGHT))
    assert counter.tally().counts == {"inside": 1, "entered": 1, "left": 0, "dwelled": 0}
    assert [visit.track for visit in counter.tally().visits] == [1]
    for i in range(2, 4):
        assert show(counter, points, seconds=i * STEP) == []
    # Track 1 is in the zone since 0.1 s, when the zone came to it.
    (dwelled,) = show(counter, points, seconds=0.4)
    assert (dwelled.kind, dwelled.track) == ("dwelled", 1)
    assert dwelled.dwell == pytest.approx(0.3)
    # What moves now, counts: track 1 leaves, track 2 enters.
    events = show(counter, [(150.0, 200.0), (550.0, 200.0), (400.0, 200.0)], seconds=0.5)
    assert [(event.kind, event.track) for event in events] == [("left", 1), ("entered", 2)]
    assert counter.tally().counts == {"inside": 1, "entered": 2, "left": 1, "dwelled": 1}


def test_a_visit_goes_on_if_the_moved_zone_still_holds_the_object() -> None:
    counter = ZoneCounter(GATE, stream="yard", dwell=0.5)
    show(counter, [(150.0, 200.0)], seconds=0.0)
    show(counter, [(150.0, 200.0)], seconds=0.2)
    counter.replace(moved("120,100px 300,100px 300,300px 120,300px"))
    assert show(counter, [(150.0, 200.0)], seconds=0.4) == []
    (dwelled,) = show(counter, [(150.0, 200.0)], seconds=0.5)
    assert dwelled.dwell == pytest.approx(0.5)


def test_an_object_that_a_move_left_behind_does_not_leave_when_it_vanishes() -> None:
    counter = ZoneCounter(GATE, stream="yard")
    show(counter, [(150.0, 200.0)], seconds=0.0)
    counter.replace(moved(RIGHT))
    assert show(counter, [None], seconds=5.0) == []
    assert counter.tally().counts == {"inside": 0, "entered": 1, "left": 0}


def test_an_object_that_is_not_seen_during_a_move_makes_no_crossing() -> None:
    counter = ZoneCounter(GATE, stream="yard")
    show(counter, [(400.0, 200.0)], seconds=0.0)
    show(counter, [None], seconds=0.1)
    counter.replace(moved(RIGHT))
    assert show(counter, [None], seconds=0.2) == []
    assert show(counter, [(400.0, 200.0)], seconds=0.3) == []
    assert counter.tally().counts == {"inside": 1, "entered": 0, "left": 0}


@given(
    xs=st.lists(st.sampled_from([20.0, 99.0, 150.0, 299.0, 310.0, 400.0, 550.0]), min_size=1, max_size=5),
    shifts=st.lists(st.sampled_from([0.0, 60.0, 199.0, 220.0, 299.0]), min_size=1, max_size=20),
)
@settings(max_examples=100, deadline=None)
def test_moves_of_regions_around_objects_that_stand_still_cause_no_event(xs: list[float], shifts: list[float]) -> None:
    """The zone and a line jump from frame to frame; "inside" is always the number of objects in the zone."""
    counter = ZoneCounter(GATE, stream="yard")
    across = LineCounter(line("door=100,100px 100,300px"), stream="yard")
    points: list[tuple[float, float] | None] = [(x, 200.0) for x in xs]
    show(counter, points, seconds=0.0)
    show(across, points, seconds=0.0)
    before = counter.tally().counts["entered"]
    inside = {i for i, x in enumerate(xs) if 100 <= x <= 300}
    for i, shift in enumerate(shifts, start=1):
        left, right = 100 + shift, 300 + shift
        counter.replace(moved(f"{left},100px {right},100px {right},300px {left},300px"))
        across.replace(line(f"door={left},100px {left},300px"))
        assert show(counter, points, seconds=i * STEP) == []
        assert show(across, points, seconds=i * STEP) == []
        # Inside, an object stays inside up to the hysteresis; this is the independent count.
        inside = {
            n for n, x in enumerate(xs) if left <= x <= right or (n in inside and left - MARGIN <= x <= right + MARGIN)
        }
        assert {visit.track for visit in counter.tally().visits} == inside
    assert (counter.tally().counts["entered"], counter.tally().counts["left"]) == (before, 0)
    assert across.tally().counts == {"in": 0, "out": 0}


def test_a_rename_or_another_limit_keeps_counts_and_visits() -> None:
    counter = ZoneCounter(GATE, stream="yard")
    show(counter, [(150.0, 200.0)], seconds=0.0)
    counter.replace(Zone("entry", GATE.points, unit="px", dwell=0.3))
    (event,) = show(counter, [(150.0, 200.0)], seconds=0.3)
    assert (event.region, event.kind) == ("entry", "dwelled")
    assert event.dwell == pytest.approx(0.3)
    assert counter.tally().counts == {"inside": 1, "entered": 1, "left": 0, "dwelled": 1}


def test_other_classes_keep_the_counts() -> None:
    counter = ZoneCounter(GATE, stream="yard")
    show(counter, [(150.0, 200.0)], seconds=0.0)
    counter.replace(Zone("gate", GATE.points, unit="px", classes=("car",)))
    assert show(counter, [(150.0, 200.0)], seconds=0.1) == []
    assert counter.tally().counts == {"inside": 0, "entered": 1, "left": 0}
    counter.replace(GATE)
    assert show(counter, [(150.0, 200.0)], seconds=0.2) == []
    assert counter.tally().counts == {"inside": 1, "entered": 1, "left": 0}


def test_a_line_keeps_its_totals_when_it_moves() -> None:
    counter = LineCounter(line("door=200,100px 200,300px"), stream="yard")
    for i, x in enumerate([150.0, 250.0]):
        show(counter, [(x, 200.0)], seconds=i * STEP)
    assert counter.tally().counts == {"in": 0, "out": 1}
    counter.replace(line("door=400,100px 400,300px"))
    for i, x in enumerate([350.0, 450.0], start=2):
        show(counter, [(x, 200.0)], seconds=i * STEP)
    assert counter.tally().counts == {"in": 0, "out": 2}
    counter.replace(Line("exit", ((400.0, 100.0), (400.0, 300.0)), unit="px"))
    (event,) = show(counter, [(350.0, 200.0)], seconds=0.4)
    assert (event.region, event.direction) == ("exit", "in")


# Options


@pytest.mark.parametrize("text", ["3", "0/5", "6/5", "1/1001", "a/b", "-1/2", "1/2/3"])
def test_inertia_that_is_not_m_of_n_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="M/N"):
        inertia(text)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 86401.0])
def test_limits_out_of_range_are_refused(seconds: float) -> None:
    with pytest.raises(ZoneError, match="gate: dwell: expected seconds above 0"):
        Zone("gate", GATE.points, unit="px", dwell=seconds)
    with pytest.raises(ValueError, match="dwell: expected seconds above 0"):
        ZoneCounter(GATE, stream="yard", dwell=seconds)
