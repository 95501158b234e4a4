"""How a measurement is taken and kept: interleaved runs, their spread, and beside them machine and conditions."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from engines.core.atomic_file import atomic_file
from retina_edge.environment.conditions import conditions, describe_machine, versions

RESULTS = Path(__file__).parent / "results"
# What is measured on a GPU stands beside what is measured on a CPU.
SUFFIXES = {"cpu": "", "cuda": "_gpu"}
LOAD = "load average"
# Processes that compute, for each core: with more than this at the start the figures are of a shared machine.
MOST_LOAD = 0.5
DIGITS = 5
# Arguments that name a place of this machine.
LOCAL = ("--work", "--modelopt")


@dataclass(frozen=True)
class Times:
    """Milliseconds of many runs: the median and the spread around it.

    Attributes:
        median, least, p10, p90: of them; percentiles are interpolated linearly, as NumPy does.
        rounds: how many runs.
    """

    median: float
    least: float
    p10: float
    p90: float
    rounds: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Times:
        """Of at least one measurement."""
        p10, median, p90 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90)))
        return cls(median, float(min(milliseconds)), p10, p90, len(milliseconds))

    def row(self) -> dict[str, float | int]:
        """As result files hold them."""
        named = {"ms": self.median, "min_ms": self.least, "p10_ms": self.p10, "p90_ms": self.p90}
        return {**{name: round(value, DIGITS) for name, value in named.items()}, "rounds": self.rounds}


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int | Mapping[str, int],
    put_aside: Callable[[str, Exception], None] | None = None,
) -> dict[str, Times]:
    """Times of each candidate, run in turn so that a drifting machine touches all alike.

    Each counted run follows an uncounted one of its own, so that it finds its own data in the caches, and the
    threads of the candidate before it have stopped spinning.

    Args:
        candidates: functions without arguments.
        rounds: counted runs of each; where they differ, those of a candidate with few are spread over the others'.
        put_aside: told of a candidate that fails, which then has no times; without it the error is raised.
    """
    counts = {name: rounds if isinstance(rounds, int) else rounds[name] for name in candidates}
    most = max(counts.values(), default=0)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for step in range(most):
        for name in list(times):
            if (step + 1) * counts[name] // most == step * counts[name] // most:
                continue
            try:
                candidates[name]()
                start = perf_counter()
                candidates[name]()
                times[name].append(1000 * (perf_counter() - start))
            except Exception as error:
                if put_aside is None:
                    raise
                del times[name]
                put_aside(name, error)
    return {name: Times.of(values) for name, values in times.items() if values}


def begin() -> dict[str, Any]:
    """The conditions before anything is measured, for ``save``; complains of a machine that is busy already."""
    found = conditions()
    if is_busy(found, cores := os.cpu_count() or 1):
        print(
            f"{LOAD} {found[LOAD]} on {cores} cores: expected at most {MOST_LOAD * cores:.1f} before a measurement; "
            "do not trust the figures, and measure again when nothing else runs",
            file=sys.stderr,
        )
    return found


def is_busy(before: Mapping[str, Any], cores: int) -> bool:
    """Whether others were computing when a measurement began, by its conditions."""
    return bool(before.get(LOAD, 0.0) > MOST_LOAD * cores)


def save(name: str, figures: Any, *, suffix: str = "", before: Mapping[str, Any] | None = None) -> Path:
    """Writes ``benchmarks/results/NAMESUFFIX.json``: command, describe_machine, versions, conditions, figures.

    Cheap enough to be called after every row, so that what is stopped leaves what it has.

    Args:
        name: of the script.
        figures: whatever JSON takes.
        suffix: ``_gpu`` for what was measured on a GPU.
        before: from ``begin``.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{suffix}.json"
    content = {
        "command": " ".join(["python -m", f"benchmarks.{name}", *_arguments(sys.argv[1:])]),
        "machine": describe_machine(),
        "versions": versions(),
        "conditions": {**({} if before is None else {"before": dict(before)}), "after": conditions()},
        "figures": figures,
    }
    with atomic_file(path) as file:  # whoever is stopped meanwhile leaves the file before
        file.write((json.dumps(content, indent=2) + "\n").encode())
    return path


def _arguments(given: Sequence[str]) -> list[str]:
    """Without ``--work`` and ``--modelopt``: those are folders of one machine, and change no figure."""
    kept, given = [], list(given)
    while given:
        argument = given.pop(0)
        if argument in LOCAL:
            given = given[1:]
        elif argument.partition("=")[0] not in LOCAL:
            kept.append(without_folders(argument))
    return kept


def without_folders(text: str) -> str:
    """Text with absolute paths cut down to their last two names: folders of one machine say nothing on another."""
    return re.sub(
        r"(?<![\w./:])(?:/[^\s/:'\",]+){3,}", lambda path: "…/" + "/".join(path.group().split("/")[-2:]), text
    )
