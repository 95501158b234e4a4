"""What MLPerf's LoadGen is told beforehand, and what its summary says afterwards.

The rules come with LoadGen itself: its ``mlperf.conf`` has least durations, least counts and seeds of each benchmark.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engines.core.errors import RetinaEdgeError
from retina_edge.detector import Detector
from retina_edge.measurement.timing import FrameCycle, Frames, measure_latency, measure_throughput

# As mlperf.conf names them; of the samples of a benchmark so many are in memory at least.
BENCHMARK, SAMPLES = "retinanet", 64
OF_BUILT_IN_FILE = 0  # beside the file given, which is empty here
# Of the throughput measured beforehand, what Server is asked for where nobody says.
SERVER_SHARE = 0.7
# LoadGen makes as many Offline samples as the expected rate and the duration ask for, and a tenth more. A short
# measurement sees caches and clocks before they are at their best; without a margin the samples run out too early.
OFFLINE_MARGIN = 1.5
PROBE_SECONDS = 1.0


def mlperf_settings(loadgen: Any, scenario: str) -> Any:
    """LoadGen's settings for a published result of RetinaNet."""
    settings = loadgen.TestSettings()
    if settings.FromConfig(os.devnull, BENCHMARK, scenario, OF_BUILT_IN_FILE) != 0:
        raise RetinaEdgeError(
            f"--mlperf {scenario}: expected the rules for {BENCHMARK} in LoadGen, found none; "
            "install a newer one: pip install --upgrade mlcommons-loadgen"
        )
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    return settings


def settings_for(loadgen: Any, scenario: str, seconds: float) -> tuple[Any, list[str]]:
    """The rules, less strict only where the run is shorter than theirs; and in which ways they are."""
    settings, shortfalls = mlperf_settings(loadgen, scenario), []
    rules_ms, rules_count = settings.min_duration_ms, settings.min_query_count
    settings.min_duration_ms = round(1000 * seconds)
    if settings.min_duration_ms < rules_ms:
        settings.min_query_count = 1  # its summary says where that was too few for its statistics
        what = "samples" if scenario == "Offline" else "queries"
        shortfalls = [f"{seconds:g} s of {rules_ms / 1000:g}", f"no least number of {what} instead of {rules_count}"]
    return settings, shortfalls


def set_expected_speed(
    settings: Any,
    detector: Detector,
    frames: Frames,
    *,
    scenario: str,
    batch: int,
    queries_per_second: float | None,
) -> None:
    """LoadGen wants to be told, roughly, how fast it will be."""
    if scenario == "SingleStream":
        settings.single_stream_expected_latency_ns = round(1e6 * _probe(detector, frames, 1))
    elif scenario == "MultiStream":
        samples = settings.multi_stream_samples_per_query
        settings.multi_stream_expected_latency_ns = round(1e6 * _probe(detector, frames, samples))
    elif scenario == "Offline":
        settings.offline_expected_qps = OFFLINE_MARGIN * _throughput(detector, frames, batch)
    else:
        settings.server_target_qps = queries_per_second or SERVER_SHARE * _throughput(detector, frames, batch)


def read_summary(path: Path) -> dict[str, Any]:
    """LoadGen's summary: what stands left and right of each colon, its remarks, and ``parameters`` that it ran by."""
    results, _, parameters = path.read_text(encoding="utf-8").partition("Test Parameters Used")
    remarks = [line.strip()[2:] for line in results.splitlines() if line.strip().startswith("* ")]
    found = _pairs(results) | ({"remarks": " ".join(remarks)} if remarks else {})
    return {**found, "parameters": _pairs(parameters)}


def has_run_out(summary: dict[str, Any]) -> bool:
    """Whether LoadGen had no samples left before its least duration was over."""
    return str(summary.get("Min duration satisfied", "")).upper() == "NO"


def _probe(detector: Detector, frames: Frames, batch: int) -> float:
    return measure_latency(detector, FrameCycle(frames, batch), PROBE_SECONDS).p50


def _throughput(detector: Detector, frames: Frames, batch: int) -> float:
    return measure_throughput(detector, frames, batch=batch, seconds=PROBE_SECONDS).frames_per_second


def _pairs(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in map(str.strip, text.splitlines()):
        name, colon, value = line.partition(":")
        if colon and value.strip() and not line.startswith("* "):
            found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
