"""Tracking of synthetic objects with known identities: seen and missed, on time and late."""

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
from retina_edge.tracking.tracker import UNTRACKED, ByteTrack

pytest.importorskip("trackers", reason="needs the trackers package: pip install 'retina-edge[track]'")

NAMES = ("car", "person", "dog")
FPS = 30.0
# Memory growth between two moments of a long run that counts as a leak. The interpreter itself keeps less.
LEAK_BYTES = 64 * 1024


def detections_of(
    boxes: Sequence[Sequence[float]] | npt.NDArray[np.floating],
    scores: Sequence[float] | float = 0.9,
    labels: Sequence[int] | int = 0,
) -> Detections:
    """Return detections of ``boxes``, xyxy. A single score or label applies to all boxes."""
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


def follow(tracker: ByteTrack, frames: Sequence[Detections], start: float = 0.0) -> list[list[int]]:
    return [tracker.update(frame, start + i / FPS).tolist() for i, frame in enumerate(frames)]


def test_an_object_gets_its_id_in_its_second_frame() -> None:
    tracks = follow(ByteTrack(), [detections_of([square(10 + 3 * i, 20)]) for i in range(4)])
    assert tracks == [[UNTRACKED], [1], [1], [1]]


def test_no_detections_give_an_empty_array_of_ids() -> None:
    tracker = ByteTrack()
    for i in range(3):
        tracks = tracker.update(detections_of([]), i / FPS)
        assert tracks.shape == (0,)
        assert tracks.dtype == np.int64


def test_ids_are_in_the_order_of_the_detections() -> None:
    rng = np.random.default_rng(0)
    tracker = ByteTrack()
    corner, speed = rng.permutation(100)[:12, None] * 100.0 + np.zeros(2), rng.uniform(-3, 3, (12, 2))
    track_of: dict[int, int] = {}
    for i in range(60):
        corner = corner + speed
        order = rng.permutation(12)
        scores = rng.uniform(0.1, 1, 12) if i > 5 else np.full(12, 0.9)  # high and low scores are matched separately
        boxes = np.concatenate([corner, corner + 50], axis=1)[order]
        tracks = tracker.update(detections_of(boxes, scores.tolist()), i / FPS).tolist()
        if i > 0:
            assert sorted(tracks) == list(range(1, 13))
            for number, track in zip(order.tolist(), tracks, strict=True):
                assert track_of.setdefault(number, track) == track


def test_objects_that_cross_keep_their_ids() -> None:
    frames = [detections_of([square(8 * i, 100 + i), square(400 - 8 * i, 110)]) for i in range(50)]
    tracks = follow(ByteTrack(), frames)
    assert all(row == [1, 2] for row in tracks[1:])


@pytest.mark.parametrize(("missed", "same"), [(1, True), (10, True), (25, True), (40, False)])
def test_an_unseen_object_keeps_its_id_for_lost_seconds(missed: int, same: bool) -> None:
    frames = [
        detections_of([square(10 + 2 * i, 20)]) if not 20 <= i < 20 + missed else detections_of([]) for i in range(80)
    ]
    tracks = follow(ByteTrack(lost_seconds=1.0), frames)
    assert tracks[19] == [1]
    assert tracks[-1] == ([1] if same else [2])


def test_ids_are_never_reused() -> None:
    tracker = ByteTrack(lost_seconds=0.2)
    seen: list[int] = []
    for visit in range(6):
        label = visit % 2
        frames = [detections_of([square(10 + i, 20)], labels=label) for i in range(5)] + [detections_of([])] * 10
        tracks = follow(tracker, frames, start=visit * 0.5)
        seen.append(tracks[4][0])
        if visit == 3:
            tracker.reset()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_low_scores_continue_a_track_but_begin_none() -> None:
    scores = [0.9] * 5 + [0.2] * 60 + [0.9] * 5
    frames = [detections_of([square(10 + 2 * i, 20), square(500, 300)], [score, 0.3]) for i, score in enumerate(scores)]
    tracks = follow(ByteTrack(score=0.4), frames)
    assert all(row == [1, UNTRACKED] for row in tracks[1:])


def test_the_score_can_change_while_tracking() -> None:
    """The new score decides which detections are kept and tracked; existing tracks keep their ids."""
    analysis = StreamAnalyzer("yard", [])
    high, low = square(10, 20), square(500, 300)
    seen: list[list[int]] = []
    for index, score in enumerate([0.4] * 5 + [0.2] * 5 + [0.6] * 5 + [0.2] * 5):
        frame = Frame(np.zeros((400, 600, 3), np.uint8), index, None, "yard", captured=index / FPS)
        seen.append(analysis(frame, detections_of([high, low], [0.9, 0.3]), score, seconds=index / FPS).tracks.tolist())
    assert seen[4] == [1]
    assert seen[9] == [1, 2]
    assert seen[14] == [1]
    assert seen[19] == [1, 2]
    with pytest.raises(ValueError, match="score: expected more than 0"):
        ByteTrack().set_score(1.0)


def test_noise_does_not_continue_a_track() -> None:
    scores = [0.9] * 5 + [0.05] * 5
    tracks = follow(ByteTrack(), [detections_of([square(10, 20)], score) for score in scores])
    assert tracks[4:6] == [[1], [UNTRACKED]]


@pytest.mark.parametrize("fps", [5.0, 30.0, 60.0])
def test_dropped_frames_do_not_change_identities(fps: float) -> None:
    """Three quarters of the frames are missing at random, and the nominal rate may be wrong."""
    rng = np.random.default_rng(1)
    tracker = ByteTrack(fps=fps)
    for i in [0, 1, 2, 3, *(i for i in range(4, 400) if rng.random() < 0.25)]:
        x = 300 + 200 * math.sin(i / 60)
        tracks = tracker.update(detections_of([square(x, 50), square(600 - x, 300)]), 1e5 + i / FPS)
        if i > 0:
            assert tracks.tolist() == [1, 2]


def test_overlapping_objects_of_two_classes_are_not_mixed_up() -> None:
    rng = np.random.default_rng(2)
    tracker = ByteTrack()
    for i in range(40):
        order = rng.permutation(2)
        boxes = np.array([square(10 + i, 20), square(12 + i, 21)])[order]
        tracks = tracker.update(detections_of(boxes, [0.9, 0.8], order.tolist()), i / FPS)
        if i > 0:
            assert tracks.tolist() == (1 + order).tolist()


def test_a_change_of_class_begins_another_track() -> None:
    tracks = follow(ByteTrack(), [detections_of([square(10, 20)], labels=int(i >= 5)) for i in range(8)])
    assert tracks == [[-1], [1], [1], [1], [1], [-1], [2], [2]]


@pytest.mark.parametrize(
    ("later", "size", "same"),
    [
        (2.9, (480, 640), False),  # unseen for longer than lost_seconds
        (0.5, (480, 640), True),
        (0.5, (720, 1280), False),
        (3.1, (480, 640), False),
        (-0.5, (480, 640), True),
        (-60.0, (480, 640), False),
        (0.0, (480, 640), True),
    ],
)
def test_a_gap_in_time_or_a_change_of_size_resets_the_tracker(later: float, size: tuple[int, int], same: bool) -> None:
    tracker = ByteTrack(lost_seconds=1.0, away_seconds=3.0)
    frame = detections_of([square(10, 20)])
    for i in range(3):
        tracks = tracker.update(frame, 100 + i / FPS, size=(480, 640))
    assert tracks.tolist() == [1]
    first = tracker.update(frame, 100 + 2 / FPS + later, size=size)
    second = tracker.update(frame, 100 + 3 / FPS + later, size=size)
    assert [*first.tolist(), *second.tolist()] == ([1, 1] if same else [UNTRACKED, 2])


def test_lost_objects_do_not_return_after_a_gap_in_time() -> None:
    tracker = ByteTrack(lost_seconds=10, away_seconds=3)
    follow(tracker, [detections_of([square(10, 20)])] * 3)
    assert tracker.update(detections_of([square(10, 20)]), 3.0).tolist() == [1]
    assert tracker.update(detections_of([square(10, 20)]), 6.1).tolist() == [UNTRACKED]


def test_trackers_are_independent_of_each_other() -> None:
    rng = np.random.default_rng(3)
    streams = []
    for _ in range(2):
        corner, speed = rng.uniform(0, 800, (6, 2)), rng.uniform(-4, 4, (6, 2))
        path = [corner + i * speed for i in range(40)]
        frame_boxes = [np.concatenate([position, position + 60], axis=1) for position in path]
        streams.append([detections_of(boxes[rng.random(6) < 0.8]) for boxes in frame_boxes])
    alone = [follow(ByteTrack(), frames) for frames in streams]
    trackers = [ByteTrack(), ByteTrack()]
    interleaved: list[list[list[int]]] = [[], []]
    for i in range(40):
        for tracker, frames, tracks in zip(trackers, streams, interleaved, strict=True):
            tracks.append(tracker.update(frames[i], i / FPS).tolist())
    assert interleaved == alone
    assert alone[0] != alone[1]


def test_empty_and_infinite_boxes_get_no_track() -> None:
    boxes: list[list[float]] = [[0, 0, math.inf, 4], [math.nan, 0, 4, 4], [5, 5, 5, 9], [9, 9, 5, 5], square(50, 50)]
    assert follow(ByteTrack(), [detections_of(boxes)] * 3)[-1] == [-1, -1, -1, -1, 1]


@pytest.mark.slow
def test_memory_does_not_grow_over_a_thousand_frames() -> None:
    rng = np.random.default_rng(4)
    tracker = ByteTrack(lost_seconds=0.3)
    sizes = []
    box = square(0, 0)
    tracemalloc.start()
    try:
        for i in range(1000):
            if i % 7 == 0:
                box = square(*rng.uniform(0, 2000, 2).tolist())
            tracker.update(detections_of([box, square(i % 100, 20)], labels=[i // 50 % 3, 0]), i / FPS)
            if i in (300, 999):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < LEAK_BYTES
    assert sum(len(per_class._ids) for per_class in tracker._classes.values()) < 10  # of more than 100 tracks
    tracker.update(detections_of([]), 1000 / FPS + 1)
    assert not tracker._classes


@pytest.mark.parametrize("timestamp", [math.nan, math.inf])
def test_a_timestamp_that_is_not_finite_is_refused(timestamp: float) -> None:
    with pytest.raises(ValueError, match="timestamp: expected finite seconds, got"):
        ByteTrack().update(detections_of([]), timestamp)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": 0.0}, "score: expected more than 0 and less than 1, got 0"),
        ({"fps": -1.0}, "fps: expected a number greater than 0, got -1"),
        ({"lost_seconds": math.nan}, "lost_seconds: .* got nan"),
        ({"away_seconds": math.inf}, "away_seconds: .* got inf"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ByteTrack(**options)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[track\]'"):
        ByteTrack()
