"""Streams that are away, lost, or done: nobody waits for them, and they are opened again as often as is good."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from engines.core.errors import SourceError
from retina_edge.pipeline import capture as capturing
from retina_edge.sources.frames import Source
from tests.made_streams import Made, dead
from tests.retina_edge.pipeline.running import SECONDS, Run, Slow, until


def test_a_dead_stream_slows_no_other() -> None:
    run = Run({"dead": dead, "well": lambda: Made(rate=100, live=True)}, deadline=0.5).start()
    until(lambda: len(run.results["well"]) >= 60)
    status = run.end(stop=True)
    assert status["dead"].error == "camera: no route to host"
    assert status["dead"].detected == 0
    gaps = np.diff([result.frame.captured for result in run.results["well"]])
    assert np.median(gaps) < 0.02  # nobody waits for it


def test_a_lost_stream_comes_back_with_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capturing, "MIN_BACKOFF", 0.02)
    monkeypatch.setattr(capturing, "MAX_BACKOFF", 0.08)
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
    monkeypatch.setattr(capturing, "MIN_BACKOFF", 0.02)
    monkeypatch.setattr(capturing, "MAX_BACKOFF", 0.16)
    monkeypatch.setattr(capturing, "STABLE_SECONDS", 0.1)
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
