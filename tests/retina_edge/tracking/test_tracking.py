"""Tracking: made-up objects whose identity is known, seen and missed, in time and late."""

from __future__ import annotations

import gc
import math
import sys
import tracemalloc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import MissingDependencyError
from retina_edge import Detections
from retina_edge.sources.frames import Frame
from retina_edge.tracking.analysis import StreamAnalyzer
from retina_edge.tracking.tracker import UNTRACKED, ByteTrack, Tracker

pytest.importorskip("trackers", reason="needs the trackers package: pip install 'retina-edge[track]'")

NAMES = ("car", "person", "dog")
FPS = 30.0
# Between two moments of a run without end; what the interpreter itself keeps stays under it.
LEAK_BYTES = 64 * 1024


def found(
    boxes: Sequence[Sequence[float]] | npt.NDArray[np.floating],
    scores: Sequence[float] | float = 0.9,
    labels: Sequence[int] | int = 0,
) -> Detections:
    """Detections of ``boxes``, xyxy; one score and one label may stand for all."""
    count = len(boxes)
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.broadcast_to(np.asarray(scores, np.float32), count).copy(),
        np.broadcast_to(np.asarray(labels, np.int32), count).copy(),
        NAMES,
        tuple(range(len(NAMES))),
    )


def square(x: float, y: float, side: float = 40) -> list[float]:
    return [x, y, x + side, y + side]


def follow(tracker: Tracker, frames: Sequence[Detections], start: float = 0.0) -> list[list[int]]:
    return [tracker.update(frame, start + i / FPS).tolist() for i, frame in enumerate(frames)]


def test_an_object_has_its_id_from_its_second_frame() -> None:
    tracks = follow(ByteTrack(), [found([square(10 + 3 * i, 20)]) for i in range(4)])
    assert tracks == [[UNTRACKED], [1], [1], [1]]


def test_nothing_found_is_an_empty_array_of_ids() -> None:
    tracker = ByteTrack()
    for i in range(3):
        tracks = tracker.update(found([]), i / FPS)
        assert tracks.shape == (0,)
        assert tracks.dtype == np.int64


def test_ids_are_in_the_order_of_the_detections() -> None:
    rng = np.random.default_rng(0)
    tracker = ByteTrack()
    corner, speed = rng.permutation(100)[:12, None] * 100.0 + np.zeros(2), rng.uniform(-3, 3, (12, 2))
    known: dict[int, int] = {}
    for i in range(60):
        corner = corner + speed
        order = rng.permutation(12)
        scores = rng.uniform(0.1, 1, 12) if i > 5 else np.full(12, 0.9)  # good and poor boxes are matched apart
        boxes = np.concatenate([corner, corner + 50], axis=1)[order]
        tracks = tracker.update(found(boxes, scores.tolist()), i / FPS).tolist()
        if i > 0:
            assert sorted(tracks) == list(range(1, 13))
            for thing, track in zip(order.tolist(), tracks, strict=True):
                assert known.setdefault(thing, track) == track


def test_objects_that_cross_keep_their_ids() -> None:
    frames = [found([square(8 * i, 100 + i), square(400 - 8 * i, 110)]) for i in range(50)]
    tracks = follow(ByteTrack(), frames)
    assert all(row == [1, 2] for row in tracks[1:])


@pytest.mark.parametrize(("missed", "same"), [(1, True), (10, True), (25, True), (40, False)])
def test_an_object_unseen_for_a_while_keeps_its_id_up_to_lost_seconds(missed: int, same: bool) -> None:
    frames = [found([square(10 + 2 * i, 20)]) if not 20 <= i < 20 + missed else found([]) for i in range(80)]
    tracks = follow(ByteTrack(lost_seconds=1.0), frames)
    assert tracks[19] == [1]
    assert tracks[-1] == ([1] if same else [2])


def test_ids_are_never_used_again() -> None:
    tracker = ByteTrack(lost_seconds=0.2)
    seen: list[int] = []
    for visit in range(6):
        label = visit % 2
        frames = [found([square(10 + i, 20)], labels=label) for i in range(5)] + [found([])] * 10
        tracks = follow(tracker, frames, start=visit * 0.5)
        seen.append(tracks[4][0])
        if visit == 3:
            tracker.reset()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_poor_boxes_keep_a_track_and_begin_none() -> None:
    scores = [0.9] * 5 + [0.2] * 60 + [0.9] * 5
    frames = [found([square(10 + 2 * i, 20), square(500, 300)], [score, 0.3]) for i, score in enumerate(scores)]
    tracks = follow(ByteTrack(score=0.4), frames)
    assert all(row == [1, UNTRACKED] for row in tracks[1:])


def test_the_score_changes_while_it_runs() -> None:
    """What is kept is followed, whatever was asked for before; who has an id keeps it."""
    analysis = StreamAnalyzer("yard", [])
    good, poor = square(10, 20), square(500, 300)
    seen: list[list[int]] = []
    for index, score in enumerate([0.4] * 5 + [0.2] * 5 + [0.6] * 5 + [0.2] * 5):
        frame = Frame(np.zeros((400, 600, 3), np.uint8), index, None, "yard", captured=index / FPS)
        seen.append(analysis(frame, found([good, poor], [0.9, 0.3]), score, seconds=index / FPS).tracks.tolist())
    assert seen[4] == [1]
    assert seen[9] == [1, 2]
    assert seen[14] == [1]
    assert seen[19] == [1, 2]
    with pytest.raises(ValueError, match="score: expected more than 0"):
        ByteTrack().set_score(1.0)


def test_noise_keeps_no_track() -> None:
    scores = [0.9] * 5 + [0.05] * 5
    tracks = follow(ByteTrack(), [found([square(10, 20)], score) for score in scores])
    assert tracks[4:6] == [[1], [UNTRACKED]]


@pytest.mark.parametrize("fps", [5.0, 30.0, 60.0])
def test_dropped_frames_cost_no_identity(fps: float) -> None:
    """Three quarters of the frames are missing, at random, and the nominal rate may be wrong."""
    rng = np.random.default_rng(1)
    tracker = ByteTrack(fps=fps)
    for i in [0, 1, 2, 3, *(i for i in range(4, 400) if rng.random() < 0.25)]:
        at = 300 + 200 * math.sin(i / 60)
        tracks = tracker.update(found([square(at, 50), square(600 - at, 300)]), 1e5 + i / FPS)
        if i > 0:
            assert tracks.tolist() == [1, 2]


def test_classes_in_one_place_are_not_mixed_up() -> None:
    rng = np.random.default_rng(2)
    tracker = ByteTrack()
    for i in range(40):
        order = rng.permutation(2)
        boxes = np.array([square(10 + i, 20), square(12 + i, 21)])[order]
        tracks = tracker.update(found(boxes, [0.9, 0.8], order.tolist()), i / FPS)
        if i > 0:
            assert tracks.tolist() == (1 + order).tolist()


def test_a_changed_class_is_another_track() -> None:
    tracks = follow(ByteTrack(), [found([square(10, 20)], labels=int(i >= 5)) for i in range(8)])
    assert tracks == [[-1], [1], [1], [1], [1], [-1], [2], [2]]


@pytest.mark.parametrize(
    ("later", "size", "same"),
    [
        (2.9, (480, 640), False),  # nothing was seen for longer than lost_seconds
        (0.5, (480, 640), True),
        (0.5, (720, 1280), False),
        (3.1, (480, 640), False),
        (-0.5, (480, 640), True),
        (-60.0, (480, 640), False),
        (0.0, (480, 640), True),
    ],
)
def test_a_stream_that_was_away_or_has_another_size_begins_anew(
    later: float, size: tuple[int, int], same: bool
) -> None:
    tracker = ByteTrack(lost_seconds=1.0, away_seconds=3.0)
    frame = found([square(10, 20)])
    for i in range(3):
        tracks = tracker.update(frame, 100 + i / FPS, size=(480, 640))
    assert tracks.tolist() == [1]
    first = tracker.update(frame, 100 + 2 / FPS + later, size=size)
    second = tracker.update(frame, 100 + 3 / FPS + later, size=size)
    assert [*first.tolist(), *second.tolist()] == ([1, 1] if same else [UNTRACKED, 2])


def test_after_a_reset_by_time_lost_objects_do_not_come_back() -> None:
    tracker = ByteTrack(lost_seconds=10, away_seconds=3)
    follow(tracker, [found([square(10, 20)])] * 3)
    assert tracker.update(found([square(10, 20)]), 3.0).tolist() == [1]
    assert tracker.update(found([square(10, 20)]), 6.1).tolist() == [UNTRACKED]


def test_trackers_side_by_side_are_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    streams = []
    for _ in range(2):
        corner, speed = rng.uniform(0, 800, (6, 2)), rng.uniform(-4, 4, (6, 2))
        paths = [corner + i * speed for i in range(40)]
        streams.append([found(np.concatenate([at, at + 60], axis=1)[rng.random(6) < 0.8]) for at in paths])
    alone = [follow(ByteTrack(), frames) for frames in streams]
    together = [ByteTrack(), ByteTrack()]
    mixed: list[list[list[int]]] = [[], []]
    for i in range(40):
        for tracker, frames, into in zip(together, streams, mixed, strict=True):
            into.append(tracker.update(frames[i], i / FPS).tolist())
    assert mixed == alone
    assert alone[0] != alone[1]


def test_boxes_that_are_none_have_no_track() -> None:
    boxes: list[list[float]] = [[0, 0, math.inf, 4], [math.nan, 0, 4, 4], [5, 5, 5, 9], [9, 9, 5, 5], square(50, 50)]
    assert follow(ByteTrack(), [found(boxes)] * 3)[-1] == [-1, -1, -1, -1, 1]


def test_a_thousand_frames_of_coming_and_going_take_no_more_memory() -> None:
    rng = np.random.default_rng(4)
    tracker = ByteTrack(lost_seconds=0.3)
    sizes = []
    place = square(0, 0)
    tracemalloc.start()
    try:
        for i in range(1000):
            if i % 7 == 0:
                place = square(*rng.uniform(0, 2000, 2).tolist())
            tracker.update(found([place, square(i % 100, 20)], labels=[i // 50 % 3, 0]), i / FPS)
            if i in (300, 999):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < LEAK_BYTES
    assert sum(len(one._ids) for one in tracker._classes.values()) < 10  # of more than 100 that were
    tracker.update(found([]), 1000 / FPS + 1)
    assert not tracker._classes


@pytest.mark.parametrize("timestamp", [math.nan, math.inf])
def test_a_time_that_is_none_is_refused(timestamp: float) -> None:
    with pytest.raises(ValueError, match="timestamp: expected seconds, got"):
        ByteTrack().update(found([]), timestamp)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"score": 0.0}, "score: expected more than 0 and less than 1, got 0"),
        ({"fps": -1.0}, "fps: expected a number greater than 0, got -1"),
        ({"lost_seconds": math.nan}, "lost_seconds: .* got nan"),
        ({"away_seconds": math.inf}, "away_seconds: .* got inf"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ByteTrack(**options)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[track\]'"):
        ByteTrack()
