"""How a measurement is taken and kept: interleaved runs, medians, and beside them machine and versions."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from retina_edge.measurement.conditions import machine, versions

RESULTS = Path(__file__).parent / "results"


def interleaved(candidates: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median milliseconds of each candidate, run in turn so that a drifting machine touches all alike.

    Each counted run follows an uncounted one of its own, so that it finds its own data in the caches, and the
    threads of the candidate before it have stopped spinning.

    Args:
        candidates: functions without arguments.
        rounds: counted runs of each.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            candidate()
            start = perf_counter()
            candidate()
            times[name].append(1000 * (perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def save(name: str, figures: Any) -> Path:
    """Writes ``benchmarks/results/NAME.json``: the command, the machine, the versions, the figures.

    With a GPU ``NAME_gpu.json``, which stands beside what was measured without one.
    """
    RESULTS.mkdir(exist_ok=True)
    here = machine()
    path = RESULTS / (f"{name}_gpu.json" if "gpu" in here and not name.endswith("gpu") else f"{name}.json")
    content = {
        "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]),
        "machine": here,
        "versions": versions(),
        "figures": figures,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
