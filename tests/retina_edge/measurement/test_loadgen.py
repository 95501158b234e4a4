"""Measurements with the real LoadGen of MLPerf, on stand-ins for a detector."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlperf_loadgen
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import MissingDependencyError, RetinaEdgeError
from engines.core.executor import HostTicket, RawDetections
from engines.core.frame_region import Frame
from retina_edge.detector import Detector
from retina_edge.measurement import loadgen, loadgen_settings, timing
from retina_edge.measurement.loadgen import _response, run_loadgen
from retina_edge.measurement.loadgen_settings import RULES, mlperf_settings, settings_for
from tests.stand_in import StandIn, contract, detector, patch_frame

FRAMES = [patch_frame((40, 60), (n, n)) for n in range(5)]
SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(loadgen_settings, "PROBE_SECONDS", 0.1)


class Steady(StandIn):
    """An executor that takes 2 ms for a batch, so that a short measurement sees the rate of a long run."""

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        time.sleep(0.002)
        return super().infer(images)


def run(scenario: str, executor: StandIn, folder: Path, **options: Any) -> dict[str, Any]:
    """Run LoadGen for 0.3 s with batches of 2 frames, unless the options say otherwise, and return its summary."""
    chosen = {"seconds": 0.3, "batch": 2, **options}
    return run_loadgen(Detector(executor), FRAMES, scenario=scenario, logs=folder, **chosen)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_answers_every_sample(scenario: str, tmp_path: Path) -> None:
    executor = Steady(contract())
    summary = run(scenario, executor, tmp_path)
    assert summary["Scenario"] == scenario
    assert summary["rules"] == RULES == "rules of v5.1, the last round with RetinaNet"
    # If the machine stalled during the short measurement, the samples run out, and the report says so.
    assert (summary["Min duration satisfied"] == "Yes") is ("ran out" not in summary["because"])
    assert summary["Mean latency (ns)"] > 0
    # LoadGen's own log, event by event.
    lines = (tmp_path / scenario / "mlperf_log_detail.txt").read_text().splitlines()
    log = {entry["key"]: entry["value"] for entry in (json.loads(line.partition(" ")[2]) for line in lines)}
    assert log["effective_scenario"] == scenario
    assert log["effective_min_duration_ms"] == 300
    assert {shape[0] for shape in executor.calls} <= set(range(1, 9 if scenario == "MultiStream" else 3))
    # The five frames are repeated as 64 samples.
    assert log["qsl_reported_total_count"] == 64
    assert set(log["loaded_qsl_set"]) == set(range(64))
    parameters = summary["parameters"]
    assert parameters["min_duration (ms)"] == 300
    assert parameters["performance_sample_count"] == 64
    assert parameters["qsl_rng_seed"] == mlperf_settings(mlperf_loadgen, scenario).qsl_rng_seed != 0


@pytest.mark.parametrize(
    ("scenario", "count"), [("SingleStream", 100), ("MultiStream", 662), ("Offline", 24576), ("Server", 100)]
)
def test_only_shorter_runs_relax_the_rules(scenario: str, count: int) -> None:
    """The counts come from LoadGen's mlperf.conf and its defaults."""
    for seconds in (600.0, 900.0):
        settings, shortfalls = settings_for(mlperf_loadgen, scenario, seconds)
        assert (settings.min_duration_ms, settings.min_query_count) == (1000 * seconds, count)
        assert shortfalls == []
        assert settings.performance_sample_count_override == 64
        assert settings.multi_stream_samples_per_query == 8
        assert settings.server_target_latency_ns == 100_000_000
    settings, shortfalls = settings_for(mlperf_loadgen, scenario, 10.0)
    assert (settings.min_duration_ms, settings.min_query_count) == (10_000, 1)
    unit = "samples" if scenario == "Offline" else "queries"
    assert shortfalls == ["10 s instead of 600", f"no minimum number of {unit} instead of {count}"]
    unchanged = ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed", "performance_sample_count_override")
    for name in unchanged:
        assert getattr(settings, name) == getattr(mlperf_settings(mlperf_loadgen, scenario), name) != 0


def test_the_rows_of_retinanet_in_loadgen_are_those_of_v5_1() -> None:
    """``FromConfig`` accepts any name, so only the values show that LoadGen still has the rows."""
    expected: dict[str, dict[str, float]] = {
        "SingleStream": {"min_query_count": 100, "single_stream_target_latency_percentile": 0.9},
        "MultiStream": {"min_query_count": 662, "multi_stream_target_latency_percentile": 0.99},
        "Offline": {"min_query_count": 24_576},
        "Server": {"min_query_count": 100, "server_target_latency_percentile": 0.99},
    }
    rows: dict[str, float] = {
        "min_duration_ms": 600_000,
        "performance_sample_count_override": 64,
        "multi_stream_samples_per_query": 8,
        "multi_stream_expected_latency_ns": 528e6,
        "server_target_latency_ns": 100e6,
    }
    for scenario, own in expected.items():
        settings = mlperf_settings(mlperf_loadgen, scenario)
        assert {name: getattr(settings, name) for name in rows | own} == rows | own
        unknown = mlperf_loadgen.TestSettings()
        assert unknown.FromConfig(os.devnull, "no-benchmark", scenario, 0) == 0
        assert unknown.performance_sample_count_override == 0
        assert (unknown.multi_stream_expected_latency_ns, unknown.server_target_latency_ns) == (80e6, 10e6)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_loadgen_without_the_rows_of_retinanet_is_refused(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen_settings, "BENCHMARK", "no-benchmark")
    with pytest.raises(RetinaEdgeError, match=r"expected the rules of v5\.1, the last round .*'mlcommons-loadgen==6"):
        mlperf_settings(mlperf_loadgen, scenario)


def test_frames_are_repeated_without_a_copy(tmp_path: Path) -> None:
    seen: set[int] = set()

    class Observing(StandIn):
        def submit(self, frames: Sequence[Frame]) -> HostTicket:
            seen.update(map(id, frames))
            return super().submit(frames)

    run("SingleStream", Observing(contract()), tmp_path)
    assert seen == {id(frame) for frame in FRAMES}


def test_offline_runs_full_batches(tmp_path: Path) -> None:
    executor = StandIn(contract())
    run("Offline", executor, tmp_path, batch=4)
    sizes = [shape[0] for shape in executor.calls]
    assert sizes.count(4) >= len(sizes) - 1


# The executor takes at least 2 ms for 2 frames: 1000 frames/s at most.
@pytest.mark.parametrize(("measured", "enough"), [(10.0, False), (1000.0, True)])
def test_offline_reports_that_its_samples_ran_out(
    measured: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, enough: bool
) -> None:
    """The expected rate is fixed, because a rate that a loaded machine measures may be far too low."""
    monkeypatch.setattr(loadgen_settings, "_throughput", lambda *_: measured)
    summary = run("Offline", Steady(contract()), tmp_path)
    assert summary["Min duration satisfied"] == ("Yes" if enough else "NO")
    assert ("ran out before 0.3 s" in summary["because"]) is not enough


def test_the_server_runs_at_the_given_rate(tmp_path: Path) -> None:
    summary = run("Server", StandIn(contract()), tmp_path, queries_per_second=50.0, seconds=1.0)
    assert 25 < summary["Scheduled samples per second"] < 100
    assert summary["parameters"]["target_qps"] == 50
    assert summary["Result is"] in ("VALID", "INVALID")


def test_a_run_that_is_too_short_is_reported_as_invalid(tmp_path: Path) -> None:
    class Slow(StandIn):
        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            time.sleep(0.02)
            return super().infer(images)

    summary = run("SingleStream", Slow(contract()), tmp_path, batch=1)
    assert summary["Result is"] == "INVALID"
    assert "Need to process at least 64 queries" in summary["remarks"]
    assert summary["50.00 percentile latency (ns)"] > 20e6
    assert summary["as the rules ask"] is False
    assert summary["because"].startswith("0.3 s instead of 600; no minimum number of queries instead of 100")


# A test of LoadGen cannot be stopped, so each of these tests runs in its own process.
PROCESS = """
import sys, time
from pathlib import Path
from retina_edge.cli import running
from retina_edge.detector import Detector
from retina_edge.measurement import loadgen, loadgen_settings, timing
from tests.stand_in import StandIn, contract, patch_frame

timing.WARM_UP_SECONDS, loadgen_settings.PROBE_SECONDS = 0.0, 0.05
run_test, started = loadgen._run, []

def begin(*arguments):
    started.append(time.monotonic())
    run_test(*arguments)

loadgen._run = begin

class Failing(StandIn):
    def infer(self, images):
        time.sleep(0.005)
        # Not during the warm-up, which may take longer than that on a loaded machine.
        if started and time.monotonic() - started[0] > {good_seconds}:
            print("long enough", flush=True)
            {then}
        return super().infer(images)

def run(folder):
    with Detector(Failing(contract())) as detector:
        loadgen.run_loadgen(detector, [patch_frame((40, 60), (0, 0))], scenario={scenario!r}, seconds=60, batch=2,
                            logs=Path(folder))
    return 0

code = running.run(lambda: run(sys.argv[1]))
if {again}:
    code = running.run(lambda: run(sys.argv[2]))
raise SystemExit(code)
"""


def start(scenario: str, folder: Path, *, then: str, again: bool = False) -> subprocess.Popen[str]:
    """Start a process that runs LoadGen, with a detector that executes ``then`` 0.2 s after the start of the test."""
    code = PROCESS.format(scenario=scenario, then=then, again=again, good_seconds=0.2)
    arguments = [sys.executable, "-c", code, str(folder / "first"), str(folder / "second")]
    return subprocess.Popen(arguments, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def slow_except(*quick: str) -> list[Any]:
    """Return all scenarios, with the mark ``slow`` on the ones that are not named."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS]


@pytest.mark.parametrize("scenario", slow_except("SingleStream", "Offline"))
def test_a_detector_that_fails_ends_a_long_test_at_once(scenario: str, tmp_path: Path) -> None:
    process = start(scenario, tmp_path, then='raise RuntimeError("GPU fell off the bus")')
    _, errors = process.communicate(timeout=30)
    assert errors == "error: --mlperf: the detector failed: GPU fell off the bus\n"
    assert process.returncode == 1


@pytest.mark.parametrize("scenario", slow_except("MultiStream", "Server"))
def test_an_interruption_ends_a_long_test_at_once(scenario: str, tmp_path: Path) -> None:
    process = start(scenario, tmp_path, then="pass")
    assert process.stdout is not None
    assert process.stdout.readline() == "long enough\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_a_second_interruption_ends_the_process(tmp_path: Path) -> None:
    """This works even if the detector hangs."""
    process = start("Server", tmp_path, then="time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "long enough\n"
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert process.returncode == 130
    assert process.communicate(timeout=30)[1] == ""


def test_loadgen_is_not_started_again_after_an_aborted_test(tmp_path: Path) -> None:
    process = start("Server", tmp_path, then='raise RuntimeError("x")', again=True)
    _, errors = process.communicate(timeout=30)
    first, second = errors.splitlines()
    assert first == "error: --mlperf: the detector failed: x"
    assert "LoadGen still runs a test that was aborted; restart this program" in second
    assert process.returncode == 1


def test_a_response_has_the_format_of_mlperf() -> None:
    """The columns are index, ymin, xmin, ymax, xmax relative to the frame, score, category id."""
    frame = patch_frame((40, 60), (10, 20))
    response = _response(3, frame, detector()(frame))
    np.testing.assert_allclose(response, [[3, 0.5, 1 / 6, 0.9, 26 / 60, 0.9, 7]], atol=0.02)
    assert response.dtype == np.float32
    assert _response(3, frame, detector()(np.zeros_like(frame))).shape == (0, 7)


def test_a_missing_loadgen_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[bench\]'"):
        run("Offline", StandIn(contract()), tmp_path)


def test_a_response_stays_alive_until_loadgen_has_read_it() -> None:
    """LoadGen gets addresses, whose memory must still hold the responses."""
    received: list[tuple[int, bytes]] = []

    class Response(SimpleNamespace):
        def __init__(self, number: int, address: int, size: int) -> None:
            super().__init__(number=number, address=address, size=size)

    def complete(answers: list[Response]) -> None:
        received.extend((a.number, bytes((ctypes.c_char * a.size).from_address(a.address))) for a in answers)

    stand_in = SimpleNamespace(QuerySampleResponse=Response, QuerySamplesComplete=complete)
    worker = loadgen._Worker(stand_in, detector(), FRAMES, 2)
    worker.start()
    worker.issue([SimpleNamespace(id=100 + n, index=n) for n in (4, 0, 2)])
    worker.stop()
    assert [number for number, _ in received] == [104, 100, 102]
    for number, data in received:
        rows = np.frombuffer(data, np.float32).reshape(-1, 7)
        assert rows[0, 0] == number - 100
