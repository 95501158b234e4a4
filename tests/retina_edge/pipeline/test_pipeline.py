"""Several streams at a time: nothing of a file is lost, nothing of a camera is old, and nobody waits for the dead."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.errors import RetinaEdgeError, SourceError
from engines.plugins.reference import RawDetections
from retina_edge.detector import Detector
from retina_edge.pipeline import capture as capturing
from retina_edge.pipeline import pipeline as running
from retina_edge.pipeline.batcher import Batcher
from retina_edge.pipeline.pipeline import MOST_FAILURES, Pipeline
from retina_edge.pipeline.slots import Slot
from retina_edge.pipeline.stream import State, Stream, StreamStatus
from retina_edge.signals import stop_on_signal
from retina_edge.sinks.base import Result
from retina_edge.sources.frames import Frame, Source
from retina_edge.tracking.analysis import Analysis
from retina_edge.tracking.zones import line, zone
from tests.made_streams import Made, dead
from tests.stand_in import StandIn, contract, patch_frame
from tests.waiting import wait_for

SECONDS = 30.0


class Slow(StandIn):
    """Takes its time for each run."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(contract(), **options)
        self._seconds = seconds

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        time.sleep(self._seconds)
        return super().infer(images)


class Run:
    """A pipeline in a thread of its own, and what it gave."""

    def __init__(
        self, sources: Mapping[str, Callable[[], Source]], stand_in: StandIn | None = None, **options: Any
    ) -> None:
        self.indices: dict[str, list[int]] = defaultdict(list)
        self.results: dict[str, list[Result]] = defaultdict(list)
        self.error: BaseException | None = None
        self.on_result: Callable[[Stream, Result], None] = lambda *_: None
        self.pipeline = Pipeline(
            Detector(stand_in or StandIn(contract())), sources, on_result=self._on_result, **options
        )
        # Left behind by a test that fails, it must not keep the whole run from its end.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _on_result(self, stream: Stream, result: Result) -> None:
        self.on_result(stream, result)
        self.indices[stream.name].append(result.frame.index)
        self.results[stream.name].append(result)

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self.error = error

    def start(self) -> Run:
        self._thread.start()
        return self

    def end(self, *, stop: bool = False) -> dict[str, StreamStatus]:
        if stop:
            self.pipeline.stop()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "hangs"
        ours = {f"capture {stream.name}" for stream in self.pipeline.streams}
        left = [thread.name for thread in threading.enumerate() if thread.name in ours]
        assert left == [], "a thread was left behind"
        return self.status()

    def status(self) -> dict[str, StreamStatus]:
        return {stream.name: stream.status() for stream in self.pipeline.streams}


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    wait_for(condition, seconds)


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


def waiting(name: str, ready: threading.Condition, count: int, *, live: bool = False, size: int = 40) -> Stream:
    """A stream that is online, with so many frames in its slot."""
    slot = Slot(ready, keeps_all=not live, size=size)
    stream = Stream(name, partial(Made, name), name, live, slot, State.ONLINE)
    for frame in Made(name, count=count):
        stream.slot.put(frame)
    return stream


def test_a_batch_is_shared_fairly() -> None:
    ready = threading.Condition()
    streams = [waiting(name, ready, 40) for name in ("a", "b", "c")]
    batcher = Batcher(streams, ready, size=4, deadline=10)
    order: list[str] = []
    for _ in range(30):
        chosen = batcher.take()
        assert chosen is not None
        assert len(chosen) == 4
        order += [stream.name for stream, _ in chosen]
    for end in range(1, 121):
        counts = [order[:end].count(name) for name in ("a", "b", "c")]
        assert max(counts) - min(counts) <= 1


def test_a_file_alone_waits_for_full_batches() -> None:
    ready = threading.Condition()
    file, camera = waiting("file", ready, 3, size=4), waiting("camera", ready, 0, live=True)
    batcher = Batcher([file, camera], ready, size=4, deadline=0.01)
    frames = list(Made(count=4))
    start = time.monotonic()
    threading.Timer(0.2, lambda: [file.slot.put(frame) for frame in frames]).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file"] * 4
    assert time.monotonic() - start >= 0.2
    threading.Timer(0.1, file.slot.close).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file"] * 3  # no more come


@pytest.mark.parametrize(("state", "seconds"), [(State.ONLINE, 0.3), (State.OFFLINE, 0.1), (State.ENDED, 0.1)])
def test_a_cameras_frame_waits_for_the_others_no_longer_than_the_deadline(state: State, seconds: float) -> None:
    ready = threading.Condition()
    file, camera, other = waiting("file", ready, 1), *(waiting(name, ready, 0, live=True) for name in ("one", "two"))
    other.state = state
    batcher = Batcher([file, camera, other], ready, size=4, deadline=0.2)
    (frame,) = Made(count=1)
    start = time.monotonic()
    threading.Timer(0.1, camera.slot.put, [frame]).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file", "one"]
    assert seconds <= time.monotonic() - start < seconds + 0.15


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


def test_a_dead_stream_slows_no_other() -> None:
    run = Run({"dead": dead, "well": lambda: Made(rate=100, live=True)}, deadline=0.5).start()
    until(lambda: len(run.results["well"]) >= 60)
    status = run.end(stop=True)
    assert status["dead"].error == "camera: no route to host"
    assert status["dead"].detected == 0
    gaps = np.diff([result.frame.captured for result in run.results["well"]])
    assert np.median(gaps) < 0.02  # nobody waits for it


def test_a_lost_stream_comes_back_with_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capturing, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(capturing, "LONGEST_WAIT", 0.08)
    attempts: list[float] = []

    def flaky() -> Source:
        attempts.append(time.monotonic())

        def script(index: int) -> None:
            if 2 < len(attempts) < 8 or index == 5:
                raise SourceError(f"lost {len(attempts)}")

        return Made("flaky", live=True, rate=200, script=script)

    run = Run({"flaky": flaky}).start()
    until(lambda: run.status()["flaky"].reconnects >= 9)
    seen = run.status()["flaky"]
    status = run.end(stop=True)["flaky"]
    assert seen.error.startswith("lost")
    assert status.state == "ended"
    assert status.detected > 10
    waits = np.diff(attempts[3:8])
    assert waits.max() < 0.3
    assert waits[-1] > 0.07  # the longest


def test_a_detector_that_raises_on_one_frame() -> None:
    class Once(StandIn):
        runs = 0

        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            self.runs += 1
            if self.runs == 4:
                raise RuntimeError("boom")
            return super().infer(images)

    # Of a live stream a frame is lost, and counted; it goes on.
    run = Run({"camera": lambda: Made(rate=200, live=True)}, Once(contract())).start()
    until(lambda: len(run.results["camera"]) >= 20)
    status = run.end(stop=True)["camera"]
    assert run.error is None
    assert status.failed == 1
    assert status.error == "detector: boom"
    # Of a file none may be missing: it ends with the error.
    run = Run({"file": lambda: Made(count=20)}, Once(contract()), batch=1).start()
    run.end()
    assert isinstance(run.error, RuntimeError)
    assert run.indices["file"] == [0, 1, 2]


def test_a_detector_that_is_broken_ends_the_run() -> None:
    broken = StandIn(contract(), fail_at=0, error=RuntimeError("CUDA error"))
    run = Run({"camera": lambda: Made(rate=500, live=True)}, broken).start()
    status = run.end()["camera"]
    assert str(run.error) == "CUDA error"
    assert status.failed == MOST_FAILURES


@pytest.mark.parametrize("where", ["submit", "infer", "on_result"])
def test_what_hangs_is_given_up(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    released = threading.Event()

    def wait_at(here: str, count: int) -> None:
        if (here, count) == (where, 3):
            released.wait(SECONDS)

    class Hanging(StandIn):
        def submit(self, frames: Any) -> Any:
            wait_at("submit", len(self.calls))
            return super().submit(frames)

        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            wait_at("infer", len(self.calls))
            return super().infer(images)

    run = Run({"a": lambda: Made(rate=100, live=True)}, Hanging(contract()), hangs_after=0.3)
    run.on_result = lambda *_: wait_at("on_result", len(run.results["a"]))
    start = time.monotonic()
    run.start().end()
    name = "output" if where == "on_result" else "detector"
    assert str(run.error) == f"{name} hangs: expected an end within 0.3 s, and none came"
    assert time.monotonic() - start < 5
    assert run.pipeline.hangs
    released.set()
    until(lambda: not run.pipeline.hangs)


def test_what_hangs_when_it_is_told_to_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    monkeypatch.setattr(running, "LAST_SECONDS", 0.3)
    released = threading.Event()

    class Hanging(StandIn):
        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            released.wait(SECONDS)
            return super().infer(images)

    run = Run({"a": lambda: Made(rate=100, live=True)}, Hanging(contract())).start()
    until(lambda: run.status()["a"].dropped > 60)  # nobody stops it before
    run.end(stop=True)
    assert str(run.error) == "detector hangs: expected an end 0.3 s after it was asked for"
    released.set()
    until(lambda: not run.pipeline.hangs)


@pytest.mark.parametrize("where", ["source", "result"])
def test_the_first_error_is_raised_and_all_threads_end(where: str) -> None:
    def script(index: int) -> None:
        if where == "source" and index == 7:
            raise KeyError("a bug")

    run = Run({"a": lambda: Made(rate=200, live=True, script=script), "b": lambda: Made(rate=200, live=True)})

    def on_result(_stream: Stream, result: Result) -> None:
        if where == "result" and result.frame.index == 7:
            raise KeyError("a bug")

    run.on_result = on_result
    run.start().end()
    assert isinstance(run.error, KeyError)


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
    analyse = partial(Analysis, regions=[line("door=0.5,0 0.5,1")], anchor="centre")
    run = Run({"a": lambda: Made(count=120), "b": lambda: Made(count=20)}, analyse=analyse).start()
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
    assert (last.picture != last.frame.image).any()


@pytest.mark.parametrize("wait", [0.0, 0.002, 0.05])
def test_what_is_counted_in_a_file_depends_on_no_machine(wait: float) -> None:
    """Seconds of the film are what tracks and zones go by: an object that is away for two of them has left."""

    class Film(Made):
        def __iter__(self) -> Iterator[Frame]:
            for index in range(60):  # at 5 frames a second
                image = patch_frame((64, 96), (8, 8)) if not 20 <= index < 45 else np.zeros((64, 96, 3), np.uint8)
                time.sleep(wait)
                yield Frame(image, index, index / 5, "film")

    analyse = partial(Analysis, regions=[zone("all=0,0 1,0 1,1 0,1")])
    run = Run({"film": Film}, analyse=analyse).start()
    run.end()
    events = [event.kind for result in run.results["film"] for event in result.events]
    assert events == ["entered", "left", "entered"]


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows lacks")
def test_a_signal_while_captures_start_ends_the_run() -> None:
    def opened() -> Source:
        if threading.current_thread() is threading.main_thread():
            started.append(True)
        return Made(rate=100, live=True)

    started: list[bool] = []
    pipeline = Pipeline(Detector(StandIn(contract())), {"a": opened, "b": opened}, on_result=lambda *_: None)
    for capture in pipeline._captures:
        start = capture.start

        def and_interrupt(start: Callable[[], None] = start) -> None:
            start()
            signal.raise_signal(signal.SIGINT)

        capture.start = and_interrupt  # type: ignore[method-assign]
    watchdog = threading.Timer(20, os._exit, [1])  # a deadlock of the main thread ends no other way
    watchdog.start()
    try:
        with stop_on_signal(pipeline.stop) as stop:
            pipeline.run()
        assert stop.asked
    except KeyboardInterrupt:  # the second one
        pass
    finally:
        watchdog.cancel()


def test_a_stop_while_a_source_opens_is_no_error_of_the_source() -> None:
    class Opening(Made):
        def __enter__(self) -> Source:
            opening.set()
            assert self._interrupted.wait(SECONDS)
            raise SourceError("it was interrupted")

    opening = threading.Event()
    run = Run({"clip": lambda: Opening(count=3)}).start()
    assert opening.wait(SECONDS)
    run.end(stop=True)
    assert run.error is None
    assert run.pipeline.streams[0].errors == []


def test_a_camera_that_has_given_its_frames_is_not_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    opened: list[bool] = []

    def camera() -> Source:
        opened.append(True)
        return Made("camera", rate=200, live=True)

    run = Run({"camera": camera, "file": lambda: Made(count=60)}, Slow(0.02), max_frames=10).start()
    status = run.end()
    assert (status["camera"].detected, status["file"].detected) == (10, 10)
    assert status["camera"].reconnects == 0
    assert len(opened) == 2  # once to see whether it is live
    assert caplog.text == ""


def test_a_camera_that_stalls_after_a_frame_is_tried_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capturing, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(capturing, "LONGEST_WAIT", 0.16)
    monkeypatch.setattr(capturing, "WELL_AFTER", 0.1)
    opened: list[float] = []

    def camera() -> Source:
        opened.append(time.monotonic())

        def script(index: int) -> None:
            if index == 1:
                time.sleep(0.12)
                raise SourceError("nothing came")

        return Made("camera", live=True, script=script)

    run = Run({"camera": camera}).start()
    until(lambda: len(opened) >= 7)
    run.end(stop=True)
    assert np.diff(opened)[-1] > 0.12 + 0.1


def test_no_streams() -> None:
    with pytest.raises(RetinaEdgeError, match="expected at least one stream"):
        Run({})


def test_random_faults_lose_nothing_that_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 frames of files and cameras; sources and detector fail at random, by a seed."""
    monkeypatch.setattr(capturing, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(capturing, "LONGEST_WAIT", 0.004)
    chance = random.Random(5)

    class Faulty(StandIn):
        def submit(self, frames: Any) -> Any:
            # Only where no file is among the streams of the batch: its frames are promised.
            if all(frame.shape[0] == 32 for frame in frames) and chance.random() < 0.05:
                raise RuntimeError("boom")
            return super().submit(frames)

    def camera() -> Source:
        life = chance.randrange(1, 200)

        def script(index: int) -> None:
            if index == life:
                raise SourceError("lost")

        return Made("camera", live=True, rate=600, size=(32, 32), script=script)

    sources: dict[str, Callable[[], Source]] = {f"camera{n}": camera for n in range(2)}
    sources |= {f"file{n}": partial(Made, f"file{n}", count=2000 + 500 * n, size=(40, 40)) for n in range(4)}
    run = Run(sources, Faulty(contract()), batch=4).start()
    until(lambda: all(not stream.name.startswith("file") or stream.over for stream in run.pipeline.streams), 60)
    status = run.end(stop=True)
    assert run.error is None
    for n in range(4):
        assert run.indices[f"file{n}"] == list(range(2000 + 500 * n))
    for n in range(2):
        counted = status[f"camera{n}"]
        assert counted.reconnects > 0
        assert counted.captured - counted.detected - counted.dropped - counted.failed in (0, 1)
