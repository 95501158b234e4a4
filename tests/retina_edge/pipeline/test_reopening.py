"""Streams that are offline, lost or ended: no other stream waits for them, and they are reopened with a back-off."""

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


def test_an_offline_stream_does_not_delay_another() -> None:
    run = Run({"dead": dead, "healthy": lambda: Made(rate=100, live=True)}, deadline=0.5).start()
    until(lambda: len(run.results["healthy"]) >= 60)
    status = run.end(stop=True)
    assert status["dead"].error == "camera: no route to host"
    assert status["dead"].detected == 0
    gaps = np.diff([result.frame.captured for result in run.results["healthy"]])
    assert np.median(gaps) < 0.02  # no batch waits for the offline stream


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
    status_before = run.status()["flaky"]
    status = run.end(stop=True)["flaky"]
    assert status_before.error.startswith("lost")
    assert status.state == "ended"
    assert status.detected > 10
    waits = np.diff(attempts[3:8])
    assert waits.max() < 0.3
    assert waits[-1] > 0.07  # close to MAX_BACKOFF


def test_a_stop_while_a_source_opens_is_not_an_error() -> None:
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


def test_a_camera_is_not_reopened_after_max_frames(caplog: pytest.LogCaptureFixture) -> None:
    opened: list[bool] = []

    def camera() -> Source:
        opened.append(True)
        return Made("camera", rate=200, live=True)

    run = Run({"camera": camera, "file": lambda: Made(count=60)}, Slow(0.02), max_frames=10).start()
    status = run.end()
    assert (status["camera"].detected, status["file"].detected) == (10, 10)
    assert status["camera"].reconnects == 0
    assert len(opened) == 2  # the first source only shows that the stream is live
    assert caplog.text == ""


def test_the_back_off_grows_for_a_camera_that_stalls_after_its_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
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
