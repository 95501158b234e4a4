"""The goals of a GPU, compared with made-up results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import end_to_end, gpu_steps, postprocess, preprocess
from benchmarks import goals as goals_module
from benchmarks import runner as runner_module
from benchmarks.end_to_end import Case
from benchmarks.goals import floors, goals
from engines.core.executor import NETWORK, POSTPROCESS, PREPROCESS


def runner(**changes: Any) -> dict[str, Any]:
    stages = {"preprocess": 0.01, "engine": 1.5, "postprocess": 0.08, "GPU": 2.0, "whole frame": 2.1}
    figures = {
        "network": "TensorRT-RTX engine, FP16",
        "why": "",
        "milliseconds": {
            stage: {"runs": 100, "mean": ms, "p50": ms, "p90": ms, "p99": ms} for stage, ms in stages.items()
        },
        "jitter": 1.05,
        "host_overhead": 0.05,
        "throughput": {"frames": 10, "seconds": 1.0, "frames_per_second": 600.0},
    }
    return {**figures, **changes}


BY_KERNEL = {"frame": [1080, 1920], "input": [800, 800], "candidate": "fused kernel, GPU", "ms": 0.004}
BY_KERNELS = {"candidate": "kernels", "classes": 91, "batch": 1, "type": "float16", "ms": 0.05, "filter_ms": 0.0102}
EAGER = {"candidate": "torchvision eager, FP32", "ms": 21.0, "ratio": 1.0}
ENGINE = {"candidate": "retina_edge engine, FP16", "ms": 2.5, "ratio": 7.9}
ON_TORCH = {"candidate": "retina_edge on torch, FP16", "ms": 2.5, "ratio": 8.4}
NAMES = ("host", "jitter", "preprocessing", "post-processing", "engine", "whole frame")


def write_results(folder: Path, **figures: Any) -> Path:
    for name, value in figures.items():
        (folder / f"{name}_gpu.json").write_text(json.dumps({"figures": value}))
    return folder


def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    rows = dict(zip(NAMES, goals(folder), strict=True))
    assert all(row["goal"].startswith(name) for name, row in rows.items())
    return rows


def test_names_are_those_of_the_other_scripts() -> None:
    case = Case("cuda", 320, np.zeros((1, 1, 3), np.uint8), torch.nn.Identity(), Path("r50.onnx"))
    assert {goals_module.BASE, *goals_module.OURS} <= set(end_to_end.candidates(case))
    assert goals_module.BASE == end_to_end.BASE
    assert goals_module.KERNEL == preprocess.KERNEL
    assert goals_module.KERNELS == postprocess.KERNELS
    assert goals_module.WHOLE == runner_module.WHOLE
    assert [goals_module.PREPROCESS, goals_module.NETWORK, goals_module.POSTPROCESS] == [
        PREPROCESS,
        NETWORK,
        POSTPROCESS,
    ]
    assert BY_KERNEL["input"] == [gpu_steps.SIDE, gpu_steps.SIDE]


def test_goals_are_compared_with_the_measurements(tmp_path: Path) -> None:
    write_results(
        tmp_path, runner=runner(), end_to_end=[EAGER, ENGINE], postprocess=[BY_KERNELS], preprocess=[BY_KERNEL]
    )
    rows = by_name(tmp_path)
    assert {name: row["met"] for name, row in rows.items()} == {
        "host": True,
        "jitter": True,
        "preprocessing": True,
        "post-processing": True,
        "engine": True,
        "whole frame": False,
    }
    assert rows["host"]["measured"] == rows["host"]["at most"] == 0.05
    assert rows["whole frame"] | {"unit": ""} == {
        "goal": "whole frame, times as fast as torchvision's eager FP32",
        "unit": "",
        "at least": 8.0,
        "measured": 7.9,
        "met": False,
        "from": "end_to_end_gpu.json",
    }
    assert rows["preprocessing"]["from"] == "runner_gpu.json"
    assert [(row["ms"], row["measured"], row["times"]) for row in floors(tmp_path)] == [
        (0.38, 1.5, 3.95),
        (0.0023, 0.01, 4.35),
        (0.0051, 0.0102, 2.0),
    ]


def test_if_torch_runs_the_network_only_the_engine_goal_is_not_measured(tmp_path: Path) -> None:
    by_torch = runner(network="torch, FP16", why="no engine for this GPU")
    del by_torch["milliseconds"]["postprocess"]
    failed = {"candidate": "retina_edge engine, FP16", "not_run": "no engine for this GPU"}
    write_results(tmp_path, runner=by_torch, end_to_end=[EAGER, failed, ON_TORCH], postprocess=[BY_KERNELS])
    rows = by_name(tmp_path)
    assert rows["engine"]["met"] is None
    assert rows["engine"]["why"] == "no engine runs on this GPU: no engine for this GPU"
    assert rows["whole frame"]["measured"] == 8.4
    assert rows["post-processing"]["measured"] == 0.05
    assert rows["post-processing"]["from"] == "postprocess_gpu.json"
    assert floors(tmp_path)[0]["measured"] == 1.5


def test_the_speedup_is_computed_from_the_runner_if_end_to_end_has_only_torchvision(tmp_path: Path) -> None:
    write_results(tmp_path, runner=runner(), end_to_end=[EAGER])
    assert by_name(tmp_path)["whole frame"]["measured"] == 10.0


@pytest.mark.parametrize(
    "figures",
    [{}, {"runner": runner(jitter=None, host_overhead=None, milliseconds={}), "end_to_end": []}],
    ids=["no files", "files without figures"],
)
def test_a_goal_without_a_measurement_is_neither_met_nor_missed(tmp_path: Path, figures: dict[str, Any]) -> None:
    for row in goals(write_results(tmp_path, **figures)):
        assert row["met"] is None
        assert row["measured"] is None
        assert row["why"]
    assert all(row["times"] is None for row in floors(tmp_path))
