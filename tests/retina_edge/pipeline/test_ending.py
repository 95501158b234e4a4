"""The end of a run, after an error or a hang of the detector, or a signal; and runs with random faults."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import SourceError
from engines.core.executor import RawDetections
from retina_edge.detector import Detector
from retina_edge.pipeline import capture as capturing
from retina_edge.pipeline import pipeline as running
from retina_edge.pipeline.pipeline import MAX_CONSECUTIVE_FAILURES, Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sources.frames import Source
from retina_edge.system.stop_request import stop_on_signal
from tests.made_streams import Made
from tests.retina_edge.pipeline.running import SECONDS, Run, until
from tests.stand_in import StandIn, contract


def test_one_error_of_the_detector_costs_a_live_frame_but_ends_a_file() -> None:
    class Once(StandIn):
        runs = 0

        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            self.runs += 1
            if self.runs == 4:
                raise RuntimeError("boom")
            return super().infer(images)

    # A live stream loses a frame, which is counted, and continues.
    run = Run({"camera": lambda: Made(rate=200, live=True)}, Once(contract())).start()
    until(lambda: len(run.results["camera"]) >= 20)
    status = run.end(stop=True)["camera"]
    assert run.error is None
    assert status.failed == 1
    assert status.error == "detector: boom"
    # No frame of a file may be missing, so the run ends with the error.
    run = Run({"file": lambda: Made(count=20)}, Once(contract()), batch=1).start()
    run.end()
    assert isinstance(run.error, RuntimeError)
    assert run.indices["file"] == [0, 1, 2]


def test_a_detector_that_always_fails_ends_the_run() -> None:
    broken = StandIn(contract(), fail_at=0, error=RuntimeError("CUDA error"))
    run = Run({"camera": lambda: Made(rate=500, live=True)}, broken).start()
    status = run.end()["camera"]
    assert str(run.error) == "CUDA error"
    assert status.failed == MAX_CONSECUTIVE_FAILURES


@pytest.mark.parametrize("where", ["submit", "infer", "on_result"])
def test_a_detector_or_output_that_hangs_ends_the_run(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "JOIN_TIMEOUT", 0.1)
    released = threading.Event()

    def wait_at(place: str, count: int) -> None:
        if (place, count) == (where, 3):
            released.wait(SECONDS)

    class Hanging(StandIn):
        def submit(self, frames: Any) -> Any:
            wait_at("submit", len(self.calls))
            return super().submit(frames)

        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            wait_at("infer", len(self.calls))
            return super().infer(images)

    run = Run({"a": lambda: Made(rate=100, live=True)}, Hanging(contract()), hangs_after=1.0)
    run.on_result = lambda *_: wait_at("on_result", len(run.results["a"]))
    start = time.monotonic()
    run.start().end()
    name = "output" if where == "on_result" else "detector"
    assert str(run.error) == f"{name} hangs: expected it to finish within 1 s"
    assert time.monotonic() - start < 5
    assert run.pipeline.hangs
    released.set()
    until(lambda: not run.pipeline.hangs)


def test_a_detector_that_hangs_at_the_stop_ends_the_run_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "JOIN_TIMEOUT", 0.1)
    monkeypatch.setattr(running, "DRAIN_TIMEOUT", 0.3)
    released = threading.Event()

    class Hanging(StandIn):
        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            released.wait(SECONDS)
            return super().infer(images)

    run = Run({"a": lambda: Made(rate=100, live=True)}, Hanging(contract())).start()
    until(lambda: run.status()["a"].dropped > 60)  # without a limit, a hang alone does not end the run
    run.end(stop=True)
    assert str(run.error) == "detector hangs: expected it to finish within 0.3 s of the stop"
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


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows lacks")
def test_a_signal_while_captures_start_ends_the_run() -> None:
    sources = dict.fromkeys(("a", "b"), partial(Made, rate=100, live=True))
    pipeline = Pipeline(Detector(StandIn(contract())), sources, on_result=lambda *_: None)
    for capture in pipeline._captures:
        start = capture.start

        def and_interrupt(start: Callable[[], None] = start) -> None:
            start()
            signal.raise_signal(signal.SIGINT)

        capture.start = and_interrupt  # type: ignore[method-assign]
    watchdog = threading.Timer(20, os._exit, [1])  # the only way to end a deadlock of the main thread
    watchdog.start()
    try:
        with stop_on_signal(pipeline.stop) as stop:
            pipeline.run()
        assert stop.requested
    finally:
        watchdog.cancel()


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_faults_lose_no_frame_of_a_file_and_every_live_frame_is_counted(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Four files of at least ``count`` frames and two cameras; cameras and detector fail at random, with a seed."""
    monkeypatch.setattr(capturing, "MIN_BACKOFF", 0.001)
    monkeypatch.setattr(capturing, "MAX_BACKOFF", 0.004)
    chance = random.Random(5)

    class Faulty(StandIn):
        def submit(self, frames: Any) -> Any:
            # Fail only if the batch has no frame of a file, because such an error ends the run.
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
    sources |= {f"file{n}": partial(Made, f"file{n}", count=count + 50 * n, size=(40, 40)) for n in range(4)}
    run = Run(sources, Faulty(contract()), batch=4).start()
    until(lambda: all(not stream.name.startswith("file") or stream.finished for stream in run.pipeline.streams), 60)
    status = run.end(stop=True)
    assert run.error is None
    for n in range(4):
        assert run.indices[f"file{n}"] == list(range(count + 50 * n))
    for n in range(2):
        camera_status = status[f"camera{n}"]
        assert camera_status.reconnects > 0
        unaccounted = camera_status.captured - camera_status.detected - camera_status.dropped - camera_status.failed
        assert unaccounted in (0, 1)  # a frame may still wait at the end
