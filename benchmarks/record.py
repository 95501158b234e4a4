"""Measurements and their result files: interleaved runs, their spread, the machine and the conditions."""

from __future__ import annotations

import json
import os
import re
import shlex
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
# Suffixes of result files: the results of a GPU lie beside those of a CPU.
SUFFIXES = {"cpu": "", "cuda": "_gpu"}
LOAD = "load average"
# Largest load per core at the start; with more than this, other processes disturb the measurement.
MAX_LOAD = 0.5
DIGITS = 5
# Options that do not change a figure, and options with a path of this machine, beside what a command shows for it.
PRIVATE = ("--work", "--modelopt")
PATHS = {"--treecrowns": "DIR", "--deepforest": "FILE"}


@dataclass(frozen=True)
class Times:
    """The median and the spread of the milliseconds of many runs.

    Attributes:
        median, least, p10, p90: statistics, milliseconds; percentiles are interpolated linearly, as NumPy does.
        rounds: number of runs.
    """

    median: float
    least: float
    p10: float
    p90: float
    rounds: int

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Times:
        """Compute the statistics of at least one measurement."""
        p10, median, p90 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90)))
        return cls(median, float(min(milliseconds)), p10, p90, len(milliseconds))

    def row(self) -> dict[str, float | int]:
        """Return the statistics as a row of a result file."""
        named = {"ms": self.median, "min_ms": self.least, "p10_ms": self.p10, "p90_ms": self.p90}
        return {**{name: round(value, DIGITS) for name, value in named.items()}, "rounds": self.rounds}


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int | Mapping[str, int],
    on_failure: Callable[[str, Exception], None] | None = None,
) -> dict[str, Times]:
    """Time candidates in turn, so that a drift in the speed of the machine affects all of them alike.

    Each counted run follows an uncounted run of the same candidate, so that its data are in the caches, and the threads
    of the previous candidate have stopped spinning.

    Args:
        candidates: functions without arguments, by name.
        rounds: counted runs, of all or of each candidate; the fewer runs of one candidate are spread over the more runs
            of another.
        on_failure: called with the name and the error of a candidate that fails, which then has no times; if None, the
            error is raised.
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
                if on_failure is None:
                    raise
                del times[name]
                on_failure(name, error)
    return {name: Times.of(values) for name, values in times.items() if values}


def begin() -> dict[str, Any]:
    """Return the conditions before a measurement, for ``save``; print a warning if the machine is busy."""
    before = conditions()
    if is_busy(before, cores := os.cpu_count() or 1):
        print(
            f"{LOAD}: expected at most {MAX_LOAD * cores:.1f} on {cores} cores before a measurement, "
            f"got {before[LOAD]}; do not trust the figures, and measure again when nothing else runs",
            file=sys.stderr,
        )
    return before


def is_busy(before: Mapping[str, Any], cores: int) -> bool:
    """True if other processes used the CPU when a measurement began, according to its conditions."""
    return bool(before.get(LOAD, 0.0) > MAX_LOAD * cores)


def save(name: str, figures: Any, *, suffix: str = "", before: Mapping[str, Any] | None = None) -> Path:
    """Write ``benchmarks/results/NAMESUFFIX.json`` and return its path.

    The file holds the command, the machine, the versions, the conditions and the figures. Writing it is cheap, so a
    script does so after every row: a script that is stopped keeps the rows that it has.

    Args:
        name: name of the script.
        figures: figures, as any value that JSON can hold.
        suffix: ``_gpu`` for figures of a GPU.
        before: conditions from ``begin``.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{suffix}.json"
    content = {
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *_arguments(sys.argv[1:])]),
        "machine": describe_machine(),
        "versions": versions(),
        "conditions": {**({} if before is None else {"before": dict(before)}), "after": conditions()},
        "figures": figures,
    }
    with atomic_file(path) as file:  # if the script is stopped now, the previous file remains
        file.write((json.dumps(content, indent=2) + "\n").encode())
    return path


def _arguments(given: Sequence[str]) -> list[str]:
    """Remove the options in ``PRIVATE``, and the values of those in ``PATHS``."""
    kept, given = [], list(given)
    while given:
        option, equals, value = given.pop(0).partition("=")
        if option in (*PRIVATE, *PATHS) and not equals:
            given = given[1:]
        if option in PATHS:
            kept += [option, PATHS[option]]
        elif option not in PRIVATE:
            kept.append(without_folders(f"{option}{equals}{value}"))
    return kept


def without_folders(text: str) -> str:
    """Shorten absolute paths in a text to their last two names: folders of one machine mean nothing elsewhere.

    Examples:
        >>> without_folders("/home/user/project/model.engine: expected an engine")
        '…/project/model.engine: expected an engine'
    """
    return re.sub(
        r"(?<![\w./:])(?:/[^\s/:'\",]+){3,}", lambda path: "…/" + "/".join(path.group().split("/")[-2:]), text
    )
