"""MLPerf's own LoadGen drives detectors that the tests know."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.errors import MissingDependencyError, RetinaEdgeError
from retina_edge.detector import Detector
from retina_edge.measurement import loadgen
from retina_edge.measurement.loadgen import _response, run_loadgen
from tests.stand_in import StandIn, contract, detector, patch_frame

FRAMES = [patch_frame((40, 60), (n, n)) for n in range(5)]
SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "PROBE_SECONDS", 0.02)


def run(scenario: str, executor: StandIn, folder: Path, **options: Any) -> dict[str, Any]:
    chosen = {"seconds": 0.3, "batch": 2, **options}
    return run_loadgen(Detector(executor), FRAMES, scenario=scenario, logs=folder, **chosen)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_answers_every_sample(scenario: str, tmp_path: Path) -> None:
    executor = StandIn(contract())
    summary = run(scenario, executor, tmp_path)
    assert summary["Scenario"] == scenario
    assert summary["Min duration satisfied"] == "Yes"
    assert summary["Mean latency (ns)"] > 0
    # LoadGen's own account, event by event.
    lines = (tmp_path / scenario / "mlperf_log_detail.txt").read_text().splitlines()
    log = {entry["key"]: entry["value"] for entry in (json.loads(line.partition(" ")[2]) for line in lines)}
    assert log["effective_scenario"] == scenario
    assert log["effective_min_duration_ms"] == 300
    assert {shape[0] for shape in executor.calls} <= set(range(1, 9 if scenario == "MultiStream" else 3))


def test_offline_runs_full_batches(tmp_path: Path) -> None:
    executor = StandIn(contract())
    run("Offline", executor, tmp_path, batch=4)
    sizes = [shape[0] for shape in executor.calls]
    assert sizes.count(4) >= len(sizes) - 1


def test_the_server_is_asked_for_what_was_said(tmp_path: Path) -> None:
    summary = run("Server", StandIn(contract()), tmp_path, queries_per_second=50.0, seconds=1.0)
    assert 25 < summary["Scheduled samples per second"] < 100
    assert summary["Result is"] in ("VALID", "INVALID")


def test_a_short_run_is_called_one(tmp_path: Path) -> None:
    class Slow(StandIn):
        def infer(self, images: Any) -> Any:
            time.sleep(0.02)
            return super().infer(images)

    summary = run("SingleStream", Slow(contract()), tmp_path, batch=1)
    assert summary["Result is"] == "INVALID"
    assert "Need to process at least 64 queries" in summary["remarks"]
    assert summary["50.00 percentile latency (ns)"] > 20e6


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_detector_that_fails_ends_the_test(scenario: str, tmp_path: Path) -> None:
    executor = StandIn(contract(), fail_at=30, error=RuntimeError("GPU fell off the bus"))
    # The first calls are those that estimate the speed.
    with pytest.raises((RetinaEdgeError, RuntimeError), match="GPU fell off the bus"):
        run(scenario, executor, tmp_path)


def test_a_response_is_as_mlperf_has_it() -> None:
    """Index, ymin, xmin, ymax, xmax as shares of the frame, score, category id."""
    frame = patch_frame((40, 60), (10, 20))
    response = _response(3, frame, detector()(frame))
    np.testing.assert_allclose(response, [[3, 0.5, 1 / 6, 0.9, 26 / 60, 0.9, 7]], atol=0.02)
    assert response.dtype == np.float32
    assert _response(3, frame, detector()(np.zeros_like(frame))).shape == (0, 7)


def test_without_loadgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[bench\]'"):
        run("Offline", StandIn(contract()), tmp_path)


def test_the_callers_interruption_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_thread: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loadgen, "_join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("SingleStream", StandIn(contract()), tmp_path)


def test_an_answer_lives_until_it_was_given() -> None:
    """What LoadGen is told of is memory that still holds the response."""
    given: list[tuple[int, bytes]] = []

    class Response(SimpleNamespace):
        def __init__(self, number: int, address: int, size: int) -> None:
            super().__init__(number=number, address=address, size=size)

    def complete(answers: list[Response]) -> None:
        given.extend((a.number, bytes((ctypes.c_char * a.size).from_address(a.address))) for a in answers)

    stand_in = SimpleNamespace(QuerySampleResponse=Response, QuerySamplesComplete=complete)
    worker = loadgen._Worker(stand_in, detector(), FRAMES, 2)
    worker.start()
    worker.issue([SimpleNamespace(id=100 + n, index=n) for n in (4, 0, 2)])
    worker.stop()
    assert [number for number, _ in given] == [104, 100, 102]
    for number, data in given:
        rows = np.frombuffer(data, np.float32).reshape(-1, 7)
        assert rows[0, 0] == number - 100
