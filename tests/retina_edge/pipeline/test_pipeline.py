"""Several streams at a time: nothing of a file is lost, nothing of a camera is old, and nobody waits for the dead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from engines.core.errors import RetinaEdgeError
from retina_edge.sources.frames import Frame
from retina_edge.tracking.analysis import StreamAnalyzer
from retina_edge.tracking.zones import line, zone
from tests.made_streams import Made
from tests.retina_edge.pipeline.running import Run, Slow, until
from tests.stand_in import StandIn, contract, patch_frame


@pytest.mark.parametrize("batch", [None, 1, 3, 8])
def test_every_frame_of_files_once_and_in_order(batch: int | None) -> None:
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
    assert len(stand_in.calls) <= 33  # 30 full ones; some short ones when streams begin and end


def test_of_a_live_stream_the_newest_frame_wins_and_drops_are_counted() -> None:
    """A detector of 30 ms at 60 frames a second: results stay young, and do not grow older."""
    run = Run({"camera": lambda: Made(rate=60, live=True)}, Slow(0.03)).start()
    until(lambda: len(run.results["camera"]) >= 100)
    status = run.end(stop=True)["camera"]
    ages = [result.age_at_output for result in run.results["camera"] if result.age_at_output is not None]
    assert len(ages) == len(run.results["camera"])
    early, late = np.median(ages[10:40]), np.median(ages[-30:])
    assert late < 0.06
    assert late < early + 0.015
    assert np.percentile(ages[5:], 90) < 0.06 + 0.02  # a loaded machine may be late now and then
    indices = run.indices["camera"]
    assert indices == sorted(set(indices))
    # Captured is what was detected, dropped, or left waiting at the end.
    assert status.captured - status.detected - status.dropped in (0, 1)
    assert status.dropped > 50


def test_frames_that_are_too_old_are_dropped_and_counted() -> None:
    class Old(Made):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                late = 1.0 if frame.index % 2 else 0.0
                yield Frame(frame.image, frame.index, None, frame.name, frame.captured - late)

    run = Run({"camera": lambda: Old(rate=100, live=True), "file": lambda: Old(count=10)}, max_age=0.5).start()
    until(lambda: len(run.results["camera"]) >= 10)
    status = run.end(stop=True)
    assert all(index % 2 == 0 for index in run.indices["camera"])
    assert status["camera"].expired > 0
    assert run.indices["file"] == list(range(10))  # a file's frames do not age
    camera = status["camera"]
    assert camera.captured - camera.detected - camera.dropped - camera.expired in (0, 1)


def test_a_stream_that_changes_its_resolution() -> None:
    class Changing(Made):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                side = 64 if frame.index < 5 else 128
                yield Frame(patch_frame((side, 96), (8, 8)), frame.index, None, frame.name)

    run = Run({"a": lambda: Changing(count=10)}).start()
    status = run.end()["a"]
    assert [result.frame.image.shape[0] for result in run.results["a"]] == [64] * 5 + [128] * 5
    assert (status.height, status.width) == (128, 96)


def test_the_score_acts_on_the_next_result() -> None:
    run = Run({"a": lambda: Made(rate=200, live=True)}, score=0.1).start()
    until(lambda: len(run.results["a"]) > 3)
    run.pipeline.set_score(0.95)
    seen = len(run.results["a"])
    until(lambda: len(run.results["a"]) > seen + 3)
    run.end(stop=True)
    assert len(run.results["a"][0].detections) == 1
    assert len(run.results["a"][-1].detections) == 0
    for score in (0.01, 1.0):
        with pytest.raises(RetinaEdgeError, match=r"score: expected 0\.05 <= score < 1"):
            run.pipeline.set_score(score)


def test_objects_are_followed_and_counted() -> None:
    """A patch that walks from left to right over a line, and starts again after 60 frames."""
    analyze = partial(StreamAnalyzer, regions=[line("door=0.5,0 0.5,1")], anchor="centre")
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
def test_what_is_counted_in_a_file_depends_on_no_machine(wait: float) -> None:
    """Seconds of the film are what tracks and zones go by: an object that is away for two of them has left."""

    class Film(Made):
        def __iter__(self) -> Iterator[Frame]:
            for index in range(60):  # at 5 frames a second
                image = patch_frame((64, 96), (8, 8)) if not 20 <= index < 45 else np.zeros((64, 96, 3), np.uint8)
                time.sleep(wait)
                yield Frame(image, index, index / 5, "film")

    analyze = partial(StreamAnalyzer, regions=[zone("all=0,0 1,0 1,1 0,1")])
    run = Run({"film": Film}, analyze=analyze).start()
    run.end()
    events = [event.kind for result in run.results["film"] for event in result.events]
    assert events == ["entered", "left", "entered"]


def test_no_streams() -> None:
    with pytest.raises(RetinaEdgeError, match="expected at least one stream"):
        Run({})
