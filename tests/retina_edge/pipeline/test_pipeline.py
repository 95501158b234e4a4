"""Several streams at once: no frame of a file is lost, and results of a camera are recent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from engines.core.errors import RetinaEdgeError
from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.sources.frames import Frame
from retina_edge.tiling import TiledDetector
from retina_edge.tracking.analysis import StreamAnalyzer
from retina_edge.tracking.zones import line, zone
from tests.made_streams import Made
from tests.retina_edge.pipeline.running import Run, Slow, until
from tests.stand_in import OpenBatch, StandIn, contract, patch_frame


@pytest.mark.parametrize("batch", [None, 1, 3, 8])
def test_every_frame_of_files_arrives_once_and_in_order(batch: int | None) -> None:
    counts = {"a": 0, "b": 1, "c": 37, "d": 80}
    sizes = {"a": (64, 96), "b": (32, 32), "c": (120, 50), "d": (64, 96)}
    sources = {name: partial(Made, name, count=counts[name], size=sizes[name]) for name in counts}
    run = Run(sources, batch=batch).start()
    status = run.end()
    assert run.error is None
    for name, count in counts.items():
        assert run.indices[name] == list(range(count)), name
        assert (status[name].captured, status[name].detected) == (count, count)
        assert (status[name].dropped, status[name].state) == (0, "ended")
        assert all(result.frame.name == name for result in run.results[name])
        assert all(result.frame.image.shape[:2] == sizes[name] for result in run.results[name])


def test_a_fixed_batch_is_filled() -> None:
    stand_in = StandIn(contract(), batch=4)
    sources = {name: partial(Made, name, count=40) for name in ("a", "b", "c")}
    run = Run(sources, stand_in).start()
    run.end()
    assert {shape[0] for shape in stand_in.calls} == {4}
    assert len(stand_in.calls) <= 33  # 30 full batches, and some short ones when streams begin and end


@pytest.mark.parametrize("tiles", [False, True])
def test_several_streams_run_on_an_engine_with_an_open_batch(tiles: bool, caplog: pytest.LogCaptureFixture) -> None:
    stand_in = OpenBatch(largest=2, tuned=1)
    whole = Detector(stand_in)
    sources = {name: partial(Made, name, count=5) for name in ("a", "b", "c")}
    results: list[int] = []
    detector = TiledDetector(whole, overlap=20) if tiles else whole
    Pipeline(detector, sources, on_result=lambda _, result: results.append(result.frame.index)).run()
    assert sorted(results) == sorted([*range(5)] * 3)
    assert max(shape[0] for shape in stand_in.calls) == (1 if tiles else 2)
    assert "tuned" not in caplog.text


def test_the_newest_frame_of_a_live_stream_wins_and_drops_are_counted() -> None:
    """With a detector of 30 ms and 60 frames per second, results are recent and do not grow older."""
    run = Run({"camera": lambda: Made(rate=60, live=True)}, Slow(0.03)).start()
    until(lambda: len(run.results["camera"]) >= 100)
    status = run.end(stop=True)["camera"]
    ages = [result.age_at_output for result in run.results["camera"] if result.age_at_output is not None]
    assert len(ages) == len(run.results["camera"])
    early, late = np.median(ages[10:40]), np.median(ages[-30:])
    assert late < 0.06
    assert late < early + 0.015
    assert np.percentile(ages[5:], 90) < 0.06 + 0.02  # a loaded machine is late from time to time
    indices = run.indices["camera"]
    assert indices == sorted(set(indices))
    # Every captured frame was detected or dropped, or still waited at the end.
    assert status.captured - status.detected - status.dropped in (0, 1)
    assert status.dropped > 50


def test_frames_that_are_too_old_are_dropped_and_counted() -> None:
    class Old(Made):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                age = 1.0 if frame.index % 2 else 0.0
                yield Frame(frame.image, frame.index, None, frame.name, frame.captured - age)

    run = Run({"camera": lambda: Old(rate=100, live=True), "file": lambda: Old(count=10)}, max_age=0.5).start()
    until(lambda: len(run.results["camera"]) >= 10)
    status = run.end(stop=True)
    assert all(index % 2 == 0 for index in run.indices["camera"])
    assert status["camera"].expired > 0
    assert run.indices["file"] == list(range(10))  # frames of a file have no age limit
    camera = status["camera"]
    assert camera.captured - camera.detected - camera.dropped - camera.expired in (0, 1)


def test_a_stream_may_change_its_resolution() -> None:
    class Changing(Made):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                side = 64 if frame.index < 5 else 128
                yield Frame(patch_frame((side, 96), (8, 8)), frame.index, None, frame.name)

    run = Run({"a": lambda: Changing(count=10)}).start()
    status = run.end()["a"]
    assert [result.frame.image.shape[0] for result in run.results["a"]] == [64] * 5 + [128] * 5
    assert (status.height, status.width) == (128, 96)


def test_a_new_score_applies_to_the_next_result() -> None:
    run = Run({"a": lambda: Made(rate=200, live=True)}, score=0.1).start()
    until(lambda: len(run.results["a"]) > 3)
    run.pipeline.set_score(0.95)
    before = len(run.results["a"])
    until(lambda: len(run.results["a"]) > before + 3)
    run.end(stop=True)
    assert len(run.results["a"][0].detections) == 1
    assert len(run.results["a"][-1].detections) == 0
    for score in (0.01, 1.0):
        with pytest.raises(RetinaEdgeError, match=r"score: expected 0\.05 <= score < 1"):
            run.pipeline.set_score(score)


def test_objects_are_tracked_and_counted() -> None:
    """A patch moves from left to right over a line, and starts again after 60 frames."""
    analyze = partial(StreamAnalyzer, regions=[line("door=0.5,0 0.5,1")], anchor="center")
    run = Run({"a": lambda: Made(count=120), "b": lambda: Made(count=20)}, analyze=analyze).start()
    run.end()
    assert run.error is None
    events = [event for result in run.results["a"] for event in result.events]
    assert [event.kind for event in events if event.direction == events[0].direction] == ["crossed", "crossed"]
    assert {event.region for event in events} == {"door"}
    assert all(event.stream == "a" for event in events)
    assert not any(result.events for result in run.results["b"])
    last = run.results["a"][-1]
    assert last.tracks is not None
    assert len(last.tracks) == len(last.detections) == 1
    assert last.tallies[0].counts != run.results["a"][1].tallies[0].counts
    assert (last.annotated != last.frame.image).any()


@pytest.mark.parametrize("wait", [0.0, 0.002, 0.05])
def test_counts_of_a_file_do_not_depend_on_the_speed_of_the_machine(wait: float) -> None:
    """Tracks and zones use the time of the video: an object that is absent for long enough has left."""

    class Video(Made):
        def __iter__(self) -> Iterator[Frame]:
            for index in range(60):  # at 5 frames per second
                image = patch_frame((64, 96), (8, 8)) if not 20 <= index < 45 else np.zeros((64, 96, 3), np.uint8)
                time.sleep(wait)
                yield Frame(image, index, index / 5, "video")

    analyze = partial(StreamAnalyzer, regions=[zone("all=0,0 1,0 1,1 0,1")])
    run = Run({"video": Video}, analyze=analyze).start()
    run.end()
    events = [event.kind for result in run.results["video"] for event in result.events]
    assert events == ["entered", "left", "entered"]


def test_a_pipeline_without_streams_is_refused() -> None:
    with pytest.raises(RetinaEdgeError, match="expected at least one stream"):
        Run({})
