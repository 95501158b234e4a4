"""The tracker for moving cameras beside the one for cameras that stand still, on scenes with known identities."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from engines.core.errors import ContractError, MissingDependencyError
from retina_edge import Detections
from retina_edge.cli.stream_options import StreamParser, run_options
from retina_edge.sources.frames import Frame
from retina_edge.tracking.analysis import StreamAnalyzer, TrackingOptions
from retina_edge.tracking.botsort import BotSort
from retina_edge.tracking.tracker import UNTRACKED, ByteTrack
from retina_edge.tracking.tracker_names import TRACKERS, make_tracker
from tests.retina_edge.tracking.moving_camera import FPS, HEIGHT, WIDTH, filmed, ground, objects_of, view

pytest.importorskip("trackers", reason="needs the trackers package: pip install 'retina-edge[track]'")

OBJECTS = 5
KEPT = list(range(1, OBJECTS + 1))
# A camera that stands still, one that turns to the right and back in steps, and one in a shaking hand. The steps are
# larger than an object, so that its boxes in two frames do not overlap.
STILL = [(800, 400)] * 40
PAN = [(800 + 45 * place, 400) for place in ([0] * 5 + [1, 2, 3] + [3] * 5 + [2, 1]) * 3 + [0] * 5]
SHAKE = [(800 + int(x), 400 + int(y)) for x, y in np.random.default_rng(7).integers(-30, 31, (40, 2))]


def ids(tracker: ByteTrack, path: list[tuple[int, int]], *, images: bool = True) -> list[list[int]]:
    return [
        tracker.update(found, i / FPS, size=(HEIGHT, WIDTH), image=image if images else None).tolist()
        for i, (image, found) in enumerate(filmed(path, OBJECTS))
    ]


def in_view(path: list[tuple[int, int]]) -> None:
    for _, found in filmed(path, OBJECTS):
        assert (found.boxes[:, 2] > 0).all()
        assert (found.boxes[:, 0] < WIDTH).all()


@pytest.mark.parametrize("path", [SHAKE, PAN], ids=["shake", "pan"])
def test_a_moving_camera_breaks_tracks_only_without_its_motion(path: list[tuple[int, int]]) -> None:
    assert all(row == KEPT for row in ids(BotSort(), path)[1:])
    for blind in (ids(ByteTrack(), path), ids(BotSort(), path, images=False)):
        assert blind[-1] != KEPT
        assert len({track for row in blind for track in row if track != UNTRACKED}) > OBJECTS


def test_with_a_still_camera_both_trackers_give_the_same_ids() -> None:
    tracks = ids(BotSort(), STILL)
    assert tracks == ids(ByteTrack(), STILL)
    assert tracks[0] == [UNTRACKED] * OBJECTS
    assert all(row == KEPT for row in tracks[1:])


def test_an_object_that_was_hidden_while_the_camera_moved_keeps_its_id() -> None:
    """The place of a lost track moves with the ground."""
    tracker, path = BotSort(), [(600 + 12 * i, 400) for i in range(30)]
    for i, (image, found) in enumerate(filmed(path, OBJECTS)):
        rows = found[np.arange(OBJECTS) != 2] if 10 <= i < 22 else found
        tracks = tracker.update(rows, i / FPS, image=image).tolist()
    assert tracks == KEPT


def test_a_frame_that_is_missing_is_made_up_for_by_the_next() -> None:
    """The motion goes back to the last frame that was seen. An update without an image moves nothing."""
    tracker, path = BotSort(), [(700, 400)] * 10 + [(720, 400)] + [(750, 400)] * 9
    for i, (image, found) in enumerate(filmed(path, OBJECTS)):
        if i == 10:
            continue  # a dropped frame: the camera has moved by 50 pixels in the next one
        tracks = tracker.update(found, i / FPS, image=image).tolist()
    assert tracks == KEPT


@pytest.mark.parametrize("later", [3.5, -60.0])
def test_a_gap_in_time_forgets_objects_and_frame(later: float) -> None:
    tracker = BotSort()
    rows = list(filmed([(700, 400)] * 3 + [(760, 400)] * 2, OBJECTS))
    for i, (image, found) in enumerate(rows[:3]):
        tracker.update(found, 100 + i / FPS, image=image)
    first = tracker.update(rows[3][1], 100 + later, image=rows[3][0]).tolist()
    second = tracker.update(rows[4][1], 100 + later + 1 / FPS, image=rows[4][0]).tolist()
    assert first == [UNTRACKED] * OBJECTS
    assert second == [track + OBJECTS for track in KEPT]


def test_frames_that_change_size_begin_new_tracks() -> None:
    tracker = BotSort()
    image, found = next(filmed(STILL, OBJECTS))
    for i in range(3):
        tracks = tracker.update(found, i / FPS, size=(HEIGHT, WIDTH), image=image).tolist()
    assert tracks == KEPT
    half = image[: HEIGHT // 2].copy()
    seen = [tracker.update(found, (3 + i) / FPS, size=half.shape[:2], image=half).tolist() for i in range(2)]
    assert seen == [[UNTRACKED] * OBJECTS, [track + OBJECTS for track in KEPT]]


def test_frames_without_texture_are_tracked_like_those_of_a_still_camera() -> None:
    blank = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    tracker = BotSort()
    for i, (_, found) in enumerate(filmed(STILL, OBJECTS)):
        tracks = tracker.update(found, i / FPS, image=blank).tolist()
    assert tracks == KEPT


def test_all_classes_move_with_the_camera() -> None:
    tracker, seen = BotSort(), []
    for i, (image, found) in enumerate(filmed(SHAKE, 4)):
        labels = np.array([0, 1, 0, 1], np.int32)
        two = Detections(found.boxes, found.scores, labels, ("car", "person"), (0, 1))
        seen.append(tracker.update(two, i / FPS, image=image).tolist())
    assert all(row == seen[1] for row in seen[1:])
    assert sorted(seen[1]) == [1, 2, 3, 4]


def test_weak_boxes_continue_a_track_but_begin_none() -> None:
    tracker = BotSort()
    boxes = np.array([[50.0, 50, 90, 90], [300, 200, 340, 240]])
    for i in range(40):
        found = objects_of(boxes + 2 * i * np.array([1.0, 0, 1, 0]))
        found = Detections(
            found.boxes, np.array([0.9 if i < 5 else 0.2, 0.3], np.float32), found.labels, ("car",), (0,)
        )
        tracks = tracker.update(found, i / FPS).tolist()
        assert tracks == [UNTRACKED if i == 0 else 1, UNTRACKED]


def test_lost_objects_expire_and_leave_nothing_behind() -> None:
    tracker = BotSort(lost_seconds=0.2)
    for i, (image, found) in enumerate(filmed(STILL[:3], OBJECTS)):
        tracker.update(found, i / FPS, image=image)
    tracker.update(objects_of(np.empty((0, 4))), 3 / FPS + 1)
    tracker.update(objects_of(np.empty((0, 4))), 4 / FPS + 1)
    assert not tracker._classes


def test_the_stream_passes_its_frames_to_the_tracker() -> None:
    options = TrackingOptions(track=True, tracker="botsort")
    make = options.analyzers(options.store(["yard"], ["car"]))
    assert make is not None
    kept, broken = make("yard"), StreamAnalyzer("yard", [])
    for i, (image, found) in enumerate(filmed(SHAKE, OBJECTS)):
        frame = Frame(image, i, None, "yard", captured=i / FPS)
        tracks = kept(frame, found, 0.4, seconds=i / FPS).tracks.tolist()
        others = broken(frame, found, 0.4, seconds=i / FPS).tracks.tolist()
    assert tracks == KEPT
    assert others != KEPT


@pytest.mark.parametrize(
    ("options", "track", "tracker"),
    [
        ([], False, "bytetrack"),
        (["--track"], True, "bytetrack"),
        (["--tracker", "bytetrack"], True, "bytetrack"),
        (["--tracker", "botsort"], True, "botsort"),
    ],
)
def test_the_option_chooses_the_tracker(options: list[str], track: bool, tracker: str) -> None:
    parser = StreamParser("detect", "Detect.", example="retina-edge detect model.onnx video.mp4")
    tracking = run_options(parser.parse_args(["model.onnx", "video.mp4", *options])).tracking
    assert (tracking.track, tracking.tracker) == (track, tracker)


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ContractError, match="tracker: expected bytetrack or botsort, got 'sort'"):
        TrackingOptions(tracker="sort")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TRACKERS)
def test_without_the_package_each_tracker_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[track\]'"):
        make_tracker(name)  # type: ignore[arg-type]


def test_the_scene_is_in_view_and_moves() -> None:
    for path in (PAN, SHAKE):
        in_view(path)
    assert not np.array_equal(view(ground(), *PAN[4]), view(ground(), *PAN[5]))
