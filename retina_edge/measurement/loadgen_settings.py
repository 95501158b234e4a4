"""Settings of MLPerf's LoadGen, and parsing of its summary.

The rules come with LoadGen: its ``mlperf.conf`` has the minimum durations, the minimum counts and the seeds of each
benchmark. MLPerf Inference v5.1 was the last round with RetinaNet. LoadGen 6.0 still has its rows, with the seeds of a
later round.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engines.core.errors import RetinaEdgeError
from retina_edge.detector import Detector
from retina_edge.measurement.timing import FrameCycle, Frames, measure_latency, measure_throughput

# Name of the benchmark in mlperf.conf, and the smallest number of samples in memory that its rules allow.
BENCHMARK, SAMPLES = "retinanet", 64
# Name of the rules in reports.
RULES = "rules of v5.1, the last round with RetinaNet"
# The rows ``retinanet`` of mlperf.conf, as LoadGen's settings. LoadGen knows no names of benchmarks: without these rows
# it would silently take those of any benchmark, ``*``.
ROWS = {
    "performance_sample_count_override": SAMPLES,
    "multi_stream_expected_latency_ns": 528_000_000,
    "server_target_latency_ns": 100_000_000,
}
OFFLINE_ROWS = {"min_query_count": 24_576}
# The newest LoadGen that is known to have these rows.
LOADGEN = "mlcommons-loadgen==6.0.17"
# Type of the file for FromConfig: use LoadGen's built-in mlperf.conf in addition to the given file, which is empty.
BUILT_IN_CONF = 0
# Share of the measured throughput that is the default rate of Server.
SERVER_SHARE = 0.7
# In Offline, LoadGen is told to expect the measured rate times this factor. LoadGen makes enough samples for the
# expected rate and the duration, and a tenth more. A short measurement underestimates the rate, because caches are cold
# and clocks have not risen. Without the factor, the samples would run out too early.
OFFLINE_MARGIN = 1.5
# Duration of the measurement before a run, seconds.
PROBE_SECONDS = 1.0


def mlperf_settings(loadgen: Any, scenario: str) -> Any:
    """Return LoadGen's settings for a published result of RetinaNet.

    Raises:
        RetinaEdgeError: if LoadGen does not have the rules for RetinaNet.
    """
    settings = loadgen.TestSettings()
    known = settings.FromConfig(os.devnull, BENCHMARK, scenario, BUILT_IN_CONF) == 0
    rows = {**ROWS, **(OFFLINE_ROWS if scenario == "Offline" else {})}
    if not known or any(getattr(settings, name) != value for name, value in rows.items()):
        raise RetinaEdgeError(
            f"--mlperf {scenario}: expected the {RULES}, in LoadGen, found others or none; install one that has them: "
            f"pip install '{LOADGEN}'"
        )
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    return settings


def settings_for(loadgen: Any, scenario: str, seconds: float) -> tuple[Any, list[str]]:
    """Return LoadGen's settings for a run of a given duration.

    Args:
        loadgen: the module ``mlperf_loadgen``.
        scenario: LoadGen's scenario.
        seconds: minimum duration of the run.

    Returns:
        The settings of MLPerf's rules, which are relaxed only if the run is shorter than the rules require, and a
        description of each relaxation.
    """
    settings, shortfalls = mlperf_settings(loadgen, scenario), []
    rules_ms, rules_count = settings.min_duration_ms, settings.min_query_count
    settings.min_duration_ms = round(1000 * seconds)
    if settings.min_duration_ms < rules_ms:
        settings.min_query_count = 1  # the summary says if LoadGen's statistics need more
        unit = "samples" if scenario == "Offline" else "queries"
        shortfalls = [
            f"{seconds:g} s instead of {rules_ms / 1000:g}",
            f"no minimum number of {unit} instead of {rules_count}",
        ]
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
    """Measure the speed of the detector briefly, and set it as the speed that LoadGen expects.

    Args:
        settings: settings of LoadGen, which are modified.
        detector: the detector.
        frames: frames to measure with.
        scenario: LoadGen's scenario.
        batch: largest number of frames in a batch.
        queries_per_second: query rate of ``Server``; None for a share of the measured throughput.
    """
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
    """Parse LoadGen's summary: name and value of each line, ``remarks``, and the ``parameters`` of the run."""
    results, _, parameters = path.read_text(encoding="utf-8").partition("Test Parameters Used")
    remarks = [line.strip()[2:] for line in results.splitlines() if line.strip().startswith("* ")]
    summary = _pairs(results) | ({"remarks": " ".join(remarks)} if remarks else {})
    return {**summary, "parameters": _pairs(parameters)}


def ran_out_of_samples(summary: dict[str, Any]) -> bool:
    """Return True if LoadGen ran out of samples before its minimum duration.

    Examples:
        >>> ran_out_of_samples({"Result is": "INVALID", "Min duration satisfied": "NO"})
        True
    """
    return str(summary.get("Min duration satisfied", "")).upper() == "NO"


def _probe(detector: Detector, frames: Frames, batch: int) -> float:
    """Return the median latency of a batch in milliseconds."""
    return measure_latency(detector, FrameCycle(frames, batch), PROBE_SECONDS).p50


def _throughput(detector: Detector, frames: Frames, batch: int) -> float:
    """Return the throughput in frames per second."""
    return measure_throughput(detector, frames, batch=batch, seconds=PROBE_SECONDS).frames_per_second


def _pairs(text: str) -> dict[str, Any]:
    """Return the name and the value of each line ``name: value``, without remarks."""
    pairs: dict[str, Any] = {}
    for line in map(str.strip, text.splitlines()):
        name, colon, value = line.partition(":")
        if colon and value.strip() and not line.startswith("* "):
            pairs[name.strip()] = _value(value.strip())
    return pairs


def _value(text: str) -> Any:
    """Convert text to an int or a float if possible."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
