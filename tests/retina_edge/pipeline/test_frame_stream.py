"""``Detector.stream``: a pipeline as an iterator."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.core.errors import ContractError, RetinaEdgeError, SourceError
from retina_edge import TiledDetector
from retina_edge.assets import MODEL
from retina_edge.detector import Detector
from retina_edge.pipeline import frame_stream
from retina_edge.tracking import analysis
from retina_edge.tracking.tracker import ByteTrack
from retina_edge.tracking.tracker_names import TrackerName, make_tracker
from retina_edge.tracking.zones import Line, Zone
from tests.made_streams import Made
from tests.media import write_patch_image, write_video
from tests.stand_in import StandIn, contract, detector
from tests.waiting import NewThreads, wait_for

COUNT = 12
# Names of the threads of every pipeline.
PIPELINE = {"pipeline", "feeder", "detector"}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", count=COUNT)


@pytest.fixture(autouse=True)
def new_threads() -> Iterator[NewThreads]:
    """The threads of the test, none of which is left behind."""
    threads = NewThreads()
    yield threads
    wait_for(lambda: not threads.names(), 10)


def use_sources(monkeypatch: pytest.MonkeyPatch, **sources: Made) -> None:
    """Stream from sources that a test makes up."""
    made = {name: (lambda source=source: source) for name, source in sources.items()}
    monkeypatch.setattr(frame_stream, "named_sources", lambda _names, **_: made)


def test_every_frame_of_a_video_comes_in_order(video: Path) -> None:
    running = detector()
    items = list(running.stream(video))
    assert [item.index for item in items] == list(range(COUNT))
    assert [item.time for item in items] == pytest.approx([n / 25 for n in range(COUNT)])
    assert {item.stream for item in items} == {"a"}
    for n, item in enumerate(items):
        frame, detections = item
        assert frame is item.frame
        assert detections is item.detections
        assert frame.shape == (64, 96, 3)
        assert abs(detections[0].box[0] - 2 * n) <= 2, "the detections are those of this very frame"


def test_images_and_several_sources(tmp_path: Path, video: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("x.png", "y.png"):
        write_patch_image(folder / name)
    items = list(detector().stream([f"video={video}", f"images={folder}"]))
    by_stream = {name: [item for item in items if item.stream == name] for name in ("video", "images")}
    assert [item.index for item in by_stream["video"]] == list(range(COUNT))
    assert [item.index for item in by_stream["images"]] == [0, 1]
    assert [item.time for item in by_stream["images"]] == [None, None]


def test_leaving_the_loop_closes_the_sources(monkeypatch: pytest.MonkeyPatch, new_threads: NewThreads) -> None:
    source = Made("camera", live=True, rate=200)
    use_sources(monkeypatch, camera=source)
    running = detector()
    for item in running.stream("camera"):
        assert item.stream == "camera"
        break
    wait_for(lambda: "capture camera" not in new_threads.names(), 10)
    assert not running.executor.closed, "the detector stays open"  # type: ignore[attr-defined]
    assert len(running(np.zeros((64, 96, 3), np.uint8))) == 0


def test_an_error_in_the_loop_closes_the_sources(video: Path) -> None:
    def loop() -> None:
        for _ in detector().stream(video):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()


def test_a_slow_loop_over_a_live_source_gets_new_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    use_sources(monkeypatch, camera=Made("camera", live=True, rate=100))
    indices = []
    for item in detector().stream("camera"):
        indices.append(item.index)
        time.sleep(0.1)
        if len(indices) == 8:
            break
    # A loop of 0.1 s sees every tenth frame, and one or two older ones that waited.
    assert np.diff(indices)[2:].mean() >= 7


def test_max_frames_ends_each_source(video: Path) -> None:
    assert len(list(detector().stream([f"a={video}", f"b={video}"], max_frames=3))) == 6


def test_scores(video: Path) -> None:
    assert all(len(item.detections) == 0 for item in detector().stream(video, score=0.95))
    with pytest.raises(RetinaEdgeError, match="score"):
        detector().stream(video, score=0.01)


def test_tracks_events_and_tallies(video: Path) -> None:
    middle = Line("gate", ((0.2, 0.0), (0.2, 1.0)))
    yard = Zone("yard", ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    items = list(detector().stream(video, regions=[middle, yard]))
    crossings = [event for item in items for event in item.events if event.kind == "crossed"]
    assert [event.region for event in crossings] == ["gate"]
    last = items[-1]
    assert last.tracks is not None
    assert last.tracks.tolist() == [crossings[0].track]
    counts = {tally.region.name: tally.counts for tally in last.tallies}
    assert sum(counts["gate"].values()) == 1
    assert counts["yard"]["inside"] == 1
    (first,) = detector().stream(video, max_frames=1)
    assert first.tracks is None


def test_a_tracker_is_chosen_by_its_name(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(name: TrackerName) -> ByteTrack:
        made.append(name)
        return make_tracker(name)

    monkeypatch.setattr(analysis, "make_tracker", make)
    chosen: tuple[bool | TrackerName, ...] = (True, "bytetrack", "botsort")
    for track in chosen:
        items = list(detector().stream(video, track=track))
        assert items[-1].tracks is not None
        assert items[-1].tracks.tolist() == [1]
    assert made == ["bytetrack", "bytetrack", "botsort"]
    with pytest.raises(ContractError, match="tracker: expected bytetrack or botsort, got 'sort'"):
        detector().stream(video, track="sort")  # type: ignore[arg-type]


def test_a_missing_source_is_named_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.mp4"):
        list(detector().stream(tmp_path / "nowhere.mp4"))


def test_a_file_that_is_cut_short_ends_with_an_error_after_its_frames(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write_patch_image(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    write_patch_image(folder / "c.png")
    stream = detector().stream(folder)
    assert [next(stream).index for _ in range(2)] == [0, 2]
    with pytest.raises(SourceError, match=r"b\.png"):
        next(stream)


def test_a_failing_detector_ends_the_loop_with_its_error(video: Path) -> None:
    failing = Detector(StandIn(contract(), fail_at=3, error=RuntimeError("GPU lost")))
    with pytest.raises(RuntimeError, match="GPU lost"):
        list(failing.stream(video))


def test_a_stream_that_is_never_read_opens_nothing(video: Path, new_threads: NewThreads) -> None:
    stream = detector().stream(video)
    assert not new_threads.names()
    del stream


@pytest.mark.parametrize("tiled", [False, True])
def test_closing_the_detector_ends_its_streams(
    monkeypatch: pytest.MonkeyPatch, tiled: bool, new_threads: NewThreads
) -> None:
    use_sources(monkeypatch, camera=Made("camera", live=True, rate=200))
    with detector() as opened:
        stream = (TiledDetector(opened, overlap=16) if tiled else opened).stream("camera")
        next(stream)
    assert not PIPELINE & set(new_threads.names())
    for _ in range(2):
        with pytest.raises(RetinaEdgeError, match="expected an open detector, got a closed one"):
            next(stream)


def test_closing_a_tiled_detector_ends_only_its_own_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    use_sources(monkeypatch, camera=Made("camera", live=True, rate=200))
    with detector() as opened, opened.stream("camera") as stream:
        with TiledDetector(opened, overlap=16) as tiled:
            next(tiled.stream("camera"))
        next(stream)
        assert not opened.closed


def test_a_stream_can_be_closed(monkeypatch: pytest.MonkeyPatch, new_threads: NewThreads) -> None:
    use_sources(monkeypatch, camera=Made("camera", live=True, rate=200))
    with detector().stream("camera") as stream:
        next(stream)
    assert not PIPELINE & set(new_threads.names())
    assert list(stream) == []
    stream.close()


def test_a_deleted_stream_closes_its_sources(monkeypatch: pytest.MonkeyPatch, new_threads: NewThreads) -> None:
    use_sources(monkeypatch, camera=Made("camera", live=True, rate=200))
    running = detector()
    stream = running.stream("camera")
    next(stream)
    del stream
    assert not PIPELINE & set(new_threads.names())
    gc.collect()
    assert not len(running.borrowers), "the detector refers to streams only weakly"


def test_a_stream_may_be_deleted_in_a_thread_of_its_own_pipeline(video: Path, new_threads: NewThreads) -> None:
    """The garbage collector runs in any thread. The detector thread must not wait there for its own end."""
    held: list[Any] = []
    deletable = threading.Event()

    class Deleting(StandIn):
        def infer(self, images: Any) -> Any:
            if len(self.calls) == 2:
                assert deletable.wait(10)
                held.clear()
            return super().infer(images)

    stream = Detector(Deleting(contract())).stream(video)
    next(stream)
    held.append(stream)
    del stream
    deletable.set()
    wait_for(lambda: not PIPELINE & set(new_threads.names()), 10)


def test_the_interpreter_exits_cleanly_with_an_open_stream(tmp_path: Path) -> None:
    """Threads that are inside OpenCV or ONNX Runtime at the exit would abort the process."""
    video = write_video(tmp_path / "a.mp4", count=200, size=(480, 640))
    code = f"""
from retina_edge import Detector
detector = Detector.load({str(MODEL)!r})
stream = detector.stream({str(video)!r})
next(stream)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("max_frames", [0, -1, 2.5, True])
def test_max_frames_below_one_is_refused(video: Path, max_frames: Any) -> None:
    with pytest.raises(RetinaEdgeError, match="max_frames: expected"):
        detector().stream(video, max_frames=max_frames)


@pytest.mark.parametrize(
    ("sources", "got"),
    [
        (b"x", "bytes"),
        (None, "NoneType"),
        (True, "bool"),
        (0.5, "float"),
        (np.zeros((4, 4, 3), np.uint8), "ndarray"),
        ([np.zeros((4, 4, 3), np.uint8)], r"ndarray at \[0\]"),
    ],
)
def test_what_is_not_a_source_is_refused_at_the_call(sources: Any, got: str) -> None:
    with pytest.raises(SourceError, match=f"^sources: expected a path, .*, got {got}; [^\n]*$"):
        detector().stream(sources)


def test_an_empty_name_and_no_source_are_refused_at_the_call() -> None:
    with pytest.raises(SourceError, match="expected the name of a source, got an empty text"):
        detector().stream("")
    with pytest.raises(RetinaEdgeError, match="sources: expected at least one"):
        detector().stream([])


def test_the_index_of_a_camera_may_come_from_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_stream, "named_sources", lambda names, **_: {f"camera{names[0]}": lambda: Made(count=1)})
    (item,) = detector().stream(np.int64(0))  # type: ignore[arg-type]
    assert item.stream == "camera0"


def test_a_closed_detector_refuses_a_stream_at_the_call(video: Path) -> None:
    with detector() as closed:
        pass
    with pytest.raises(RetinaEdgeError, match="expected an open detector"):
        closed.stream(video)


def test_a_score_below_a_changed_threshold_is_refused(video: Path) -> None:
    running = detector()
    running.score_threshold = 0.5
    with pytest.raises(RetinaEdgeError, match=r"score: expected 0\.5 <= score < 1, got 0\.3"):
        running.stream(video, score=0.3)
    with pytest.raises(RetinaEdgeError, match=r"got '0\.6'"):
        running.stream(video, score="0.6")  # type: ignore[arg-type]


def test_each_frame_has_its_name_and_can_be_plotted(tmp_path: Path) -> None:
    paths = [write_patch_image(tmp_path / name) for name in ("x.png", "y.png")]
    for item, path in zip(detector().stream(tmp_path), paths, strict=True):
        assert item.name == str(path)
        assert np.array_equal(item.plot(), item.detections.plot(item.frame))
        assert np.array_equal(item.detections.plot(), item.plot())
        assert not np.array_equal(item.plot(), item.frame)
        assert item.detections[:1]._repr_png_()


def test_stored_detections_do_not_keep_the_frames_of_a_stream(video: Path) -> None:
    stored = []
    for frame, detections in detector().stream(video):
        assert detections.plot().shape == frame.shape
        stored.append(detections)
        # The pool still has the images of earlier frames, but overwrites them.
        assert [item._known_frame() is frame for item in stored] == [False] * (len(stored) - 1) + [True]
    del frame
    for detections in stored:
        assert detections.frame is None
        with pytest.raises(ValueError, match=r"plot\(frame\)"):
            detections.plot()
        assert len(copy.deepcopy(detections)) == len(pickle.loads(pickle.dumps(detections))) == len(detections)


def test_stored_frames_are_not_overwritten(video: Path) -> None:
    items = list(detector().stream(video))
    for n, item in enumerate(items):
        assert abs(int(item.frame[0, 0, 0]) - min(190, 10 * n)) <= 6
    frames = [frame for frame, _ in detector().stream(video)]
    assert [int(frame[0, 0, 0]) for frame in frames] == [int(item.frame[0, 0, 0]) for item in items]
