"""Goals for a GPU, and how the measurements in the result files compare with them.

The goals are for one H200: R50 at 800×800, FP16, batch 1, from a 1080p frame in host memory to its detections in host
memory. The floors are the shortest times that the GPU's arithmetic and memory allow: for the network's 303 GFLOP, for
reading the frame and the input once, and for reading the logits once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import SUFFIXES

SUFFIX = SUFFIXES["cuda"]
# The names in the other scripts. They are repeated, because those scripts import torch, and this module must run (and
# report what is missing) without torch. A test keeps both in step.
PREPROCESS, NETWORK, POSTPROCESS, WHOLE = "preprocess", "engine", "postprocess", "whole frame"
KERNEL, KERNELS, BASE = "fused kernel, GPU", "kernels", "torchvision eager, FP32"
OURS = ("retina_edge engine, FP16", "retina_edge on torch, FP16")
# Returns the figures of a result file by the name of its script; None if there is no such file.
Results = Callable[[str], Any]


@dataclass(frozen=True)
class Goal:
    """One figure and its limit.

    Attributes:
        name: name of the figure.
        unit: unit of the figure and of the limit.
        limit: the value to reach.
        at_least: the figure must be at least the limit; if False, at most.
        measure: function that takes the results and returns the figure and the name of its result file. It raises a
            KeyError, with the reason, if the figure was not measured.
    """

    name: str
    unit: str
    limit: float
    measure: Callable[[Results], tuple[float, str]]
    at_least: bool = False

    def row(self, results: Results) -> dict[str, Any]:
        """Return the goal with its measurement, as ``gpu.json`` holds it."""
        goal = {"goal": self.name, "unit": self.unit, "at least" if self.at_least else "at most": self.limit}
        try:
            measured, source = self.measure(results)
        except KeyError as error:
            return {**goal, "measured": None, "met": None, "why": error.args[0]}
        met = measured >= self.limit if self.at_least else measured <= self.limit
        return {**goal, "measured": round(measured, 5), "met": bool(met), "from": f"{source}{SUFFIX}.json"}


def goals(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each goal, from the result files in a folder."""
    return [goal.row(lambda name: _figures(folder, name)) for goal in GOALS]


def floors(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each floor: its name and time, the measured time, and the measured time divided by the floor."""
    rows = []
    for floor in FLOORS:
        row = floor.row(lambda name: _figures(folder, name))
        measured = row["measured"]
        source = {"from": row["from"]} if "from" in row else {"why": row["why"]}
        times = None if measured is None else round(measured / floor.limit, 2)
        rows.append({"floor": floor.name, "ms": floor.limit, "measured": measured, "times": times, **source})
    return rows


def _figures(folder: Path, name: str) -> Any:
    path = folder / f"{name}{SUFFIX}.json"
    return json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else None


def _runner_figure(results: Results, name: str) -> float:
    figures = results("runner")
    if figures is None or figures.get(name) is None:
        raise KeyError(f"the runner measured no {name}")
    return float(figures[name])


def _stage(results: Results, stage: str) -> float:
    figures = results("runner") or {}
    value = figures.get("milliseconds", {}).get(stage, {}).get("p50")
    if value is None:
        raise KeyError(f"the runner measured no stage {stage}")
    return float(value)


def _overhead(results: Results) -> tuple[float, str]:
    return _runner_figure(results, "host_overhead"), "runner"


def _jitter(results: Results) -> tuple[float, str]:
    return _runner_figure(results, "jitter"), "runner"


def _preprocess(results: Results) -> tuple[float, str]:
    """Return the stage of the runner; if that was not measured, the kernel alone."""
    try:
        return _stage(results, PREPROCESS), "runner"
    except KeyError:
        return _preprocess_alone(results)


def _preprocess_alone(results: Results) -> tuple[float, str]:
    case = {"frame": [1080, 1920], "input": [800, 800], "candidate": KERNEL}
    return _row(results, "preprocess", case, "ms"), "preprocess"


def _postprocess(results: Results) -> tuple[float, str]:
    """Return the stage of the runner, else the kernels alone: with plugins, post-processing is part of the engine."""
    try:
        return _stage(results, POSTPROCESS), "runner"
    except KeyError:
        return _row(results, "postprocess", IN_FP16, "ms"), "postprocess"


def _filter(results: Results) -> tuple[float, str]:
    return _row(results, "postprocess", IN_FP16, "filter_ms"), "postprocess"


def _engine(results: Results) -> tuple[float, str]:
    """Return the time of an engine only: if torch ran the network, its time says nothing about an engine."""
    figures = results("runner")
    if figures and figures.get("why"):
        raise KeyError(f"no engine runs on this GPU: {figures['why']}")
    return _stage(results, NETWORK), "runner"


def _network(results: Results) -> tuple[float, str]:
    return _stage(results, NETWORK), "runner"


def _speedup(results: Results) -> tuple[float, str]:
    """Return the ratio measured in turn with torchvision, else the one computed from the runner's whole frame."""
    for name in OURS:
        try:
            return _row(results, "end_to_end", {"candidate": name}, "ratio"), "end_to_end"
        except KeyError:
            continue
    return _row(results, "end_to_end", {"candidate": BASE}, "ms") / _stage(results, WHOLE), "end_to_end"


def _row(results: Results, name: str, case: Mapping[str, Any], figure: str) -> float:
    for row in results(name) or []:
        if all(row.get(key) == value for key, value in case.items()):
            if row.get(figure) is None:
                raise KeyError(f"{name}: {row.get('not_run', f'no {figure}')}")
            return float(row[figure])
    raise KeyError(f"{name} was not measured")


IN_FP16 = {"candidate": KERNELS, "classes": 91, "batch": 1, "type": "float16"}
GOALS = (
    Goal("host overhead, relative to the GPU's time", "share", 0.05, _overhead),
    Goal("jitter of the whole frame, p99 / p50", "ratio", 1.10, _jitter),
    Goal("preprocessing", "ms", 0.02, _preprocess),
    Goal("post-processing", "ms", 0.10, _postprocess),
    Goal("engine", "ms", 2.0, _engine),
    Goal("whole frame, times as fast as torchvision's eager FP32", "ratio", 8.0, _speedup, at_least=True),
)
FLOORS = (
    Goal("the network's arithmetic", "ms", 0.38, _network),
    Goal("preprocessing: frame and input pass through memory once", "ms", 0.0023, _preprocess),
    Goal("reading the logits once", "ms", 0.0051, _filter),
)
