"""The tables and pictures of GPU results, made from made-up records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record
from benchmarks.documentation import BENCHMARKS, NOT_YET, PLACES, with_figures
from benchmarks.plots import DRAWINGS, SOURCE, draw, source_of
from benchmarks.table_parts import source
from benchmarks.tables import TABLES

TIMES = {"min_ms": 1.0, "p10_ms": 1.0, "p90_ms": 2.0, "rounds": 200}
NO_ENGINE = "no engine for this GPU | or that"
FIGURES: dict[str, Any] = {
    "end_to_end_gpu": [
        {"candidate": "torchvision eager, FP32", "device": "cuda", "input": 800, "ms": 20.0, "ratio": 1.0, **TIMES},
        {"candidate": "retina_edge engine, FP16", "device": "cuda", "input": 800, "ms": 2.0, "ratio": 10.0, **TIMES},
        {"candidate": "retina_edge engine, INT8", "device": "cuda", "input": 800, "not_run": NO_ENGINE},
    ],
    "preprocess_gpu": [
        {"frame": [1080, 1920], "input": [800, 800], "candidate": "torch, GPU", "ms": 0.05, "ratio": 1.0},
        {"frame": [1080, 1920], "input": [800, 800], "candidate": "fused kernel, GPU", "not_run": "no pycuda"},
    ],
    "postprocess_gpu": [
        {
            "candidate": "kernels",
            "classes": 91,
            "batch": 1,
            "type": "float16",
            "ms": 0.05,
            "filter_ms": 0.01,
            "select_ms": 0.02,
            "nms_ms": 0.02,
        },
        {"candidate": "kernels", "classes": 1, "batch": 8, "type": "float32", "not_run": "other bits"},
    ],
    "detectors_gpu": [
        {
            "detector": "RetinaNet R50",
            "input": [750, 1333],
            "run_by": "torch eager",
            "parameters": 34_000_000,
            "gflop": 488.3,
            "published_ap": 36.4,
            "ms": 25.0,
            "ratio": 1.0,
        },
        {"detector": "YOLOX-S", "run_by": "torch eager", "not_run": "not installed"},
    ],
    "scaling_gpu": [
        {"varied": "batch", "value": 1, "ms": 1.0, "cost": 1.0, "on": "ONNX Runtime", "why": "no TensorRT"},
        {"varied": "batch", "value": 4, "not_run": "out of memory", "on": "ONNX Runtime", "why": "no TensorRT"},
    ],
    "runner_gpu": {
        "network": "torch, FP16",
        "why": "no engine for this GPU",
        "milliseconds": {"engine": {"runs": 5, "mean": 2.0, "p50": 1.875, "p90": 2.0, "p99": None}},
        "jitter": 1.05,
        "host_overhead": None,
        "throughput": {"frames_per_second": 432.1},
    },
    "gpu": {
        "steps": [{"step": "runner", "ended": "ok"}, {"step": "scaling", "ended": "took longer than 90 s"}],
        "tests": [{"outcome": "passed"}, {"outcome": "passed"}, {"outcome": "skipped"}],
        "goals": [
            {"goal": "engine", "unit": "ms", "at most": 2.0, "measured": 1.875, "met": True, "from": "runner_gpu.json"},
            {"goal": "speed", "unit": "ratio", "at least": 8.0, "measured": 7.5, "met": False, "from": "x"},
            {"goal": "jitter", "unit": "ratio", "at most": 1.1, "measured": None, "met": None, "why": "not measured"},
        ],
    },
}
EXPECTED = {
    "end_to_end_gpu": ("| retina_edge engine, FP16 | **2.000** | **10.00** |", "no engine for this GPU / or that"),
    "preprocess_gpu": ("| 1920×1080 to 800×800 | 0.0500 ms | no pycuda |",),
    "postprocess_gpu": ("| kernels | 91 | 1 | float16 | 0.050 | 0.0100 | 0.0200 | 0.0200 |", "other bits"),
    "detectors_gpu": (
        "| RetinaNet R50, 750×1333 | torch eager | 34.0 | 488.3 | 36.4 | 25.000 | 1.00 |",
        "not installed",
    ),
    "scaling_gpu": ("| batch | 1: 1.00, 4: – |", "*On ONNX Runtime: no TensorRT*"),
    "runner_gpu": (
        "| engine | 2.000 | 1.875 | 2.000 |  |",
        "- Network: torch, FP16\n- Reason why it is not an engine: no engine for this GPU\n",
        "- Throughput: 432.1 frames per second",
    ),
    "gpu": (
        "| engine, ms | ≤ 2.0 | 1.875 | yes |",
        "| speed, ratio | ≥ 8.0 | 7.5 | no |",
        "| jitter, ratio | ≤ 1.1 | not measured |  |",
        "2 passed, 1 skipped",
        "scaling (took longer than 90 s)",
    ),
}


def fake_record(name: str) -> dict[str, Any]:
    return {
        "command": f"python -m benchmarks.{name.removesuffix('_gpu')} --device cuda",
        "machine": {"processor": "a CPU", "cores": 16, "system": "Linux", "gpu": "NVIDIA H200", "driver": "580"},
        "versions": {"torch": "2.11"},
        "conditions": {"before": {"load average": 1.0}, "after": {}},
        "figures": FIGURES[name],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the project's own CPU results, and without GPU results."""
    for path in record.RESULTS.glob("*.json"):
        if not path.stem.endswith("gpu"):
            shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("figures", "header", "cell"),
    [
        ({"agreement": 0.91}, "share of detections that agree with FP32", "0.910"),
        (
            {"agreement": 0.91, "partners": 0.985, "displacement": 0.213},
            "boxes of FP32 that score at least 0.1 and have a partner, mean displacement",
            "98.5%, 0.21 px",
        ),
    ],
)
def test_the_agreement_is_that_of_partners_if_the_file_has_it(figures: dict[str, Any], header: str, cell: str) -> None:
    row = {**FIGURES["end_to_end_gpu"][1], **figures}
    table = TABLES["end_to_end_gpu"]({"figures": [row]})
    assert f"| {header} |" in table
    assert f"| {cell} |" in table


def test_every_result_file_has_a_table_and_a_place() -> None:
    assert {name for names in PLACES.values() for name in names} == set(TABLES)
    assert set(FIGURES) == {name for name in TABLES if name.endswith("gpu")}
    assert {path.stem for path in record.RESULTS.glob("*.json")} <= set(TABLES)


def test_without_gpu_results_the_page_shows_no_gpu_table(folder: Path) -> None:
    text = with_figures(BENCHMARKS.read_text(encoding="utf-8"), folder)
    assert "_gpu.json`" not in text
    assert f"<!-- gpu -->\n{NOT_YET}\n<!-- /gpu -->" in text


@pytest.mark.parametrize("name", FIGURES)
def test_gpu_results_are_shown_once_they_exist(folder: Path, name: str) -> None:
    text = BENCHMARKS.read_text(encoding="utf-8")
    without = with_figures(text, folder)
    (folder / f"{name}.json").write_text(json.dumps(fake_record(name)))
    shown = with_figures(text, folder)
    assert f"*`benchmarks/results/{name}.json`: NVIDIA H200, driver 580, torch 2.11. `python" in shown
    for expected in EXPECTED[name]:
        assert expected in shown
    assert (f"(pictures/{name}.png)" in shown) == (name in DRAWINGS)
    assert name in ("gpu", "runner_gpu") or NOT_YET in shown
    # The earlier text is still there, so the CPU table comes first.
    mark = next(mark for mark, names in PLACES.items() if name in names)
    before, after = (
        part.partition(f"<!-- {mark} -->")[2].partition(f"<!-- /{mark} -->")[0] for part in (without, shown)
    )
    assert mark == "gpu" or after.startswith(before.rstrip("\n"))


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_picture_can_be_drawn(folder: Path, tmp_path: Path, name: str) -> None:
    from PIL import Image

    if name in FIGURES:
        (folder / f"{name}.json").write_text(json.dumps(fake_record(name)))
    with Image.open(draw(name, folder, tmp_path)) as picture:
        assert picture.info[SOURCE] == source_of((folder / f"{name}.json").read_bytes())
        assert min(picture.size) > 100


def test_axes_name_the_base_of_their_ratios(folder: Path) -> None:
    records = {name: json.loads((folder / f"{name}.json").read_text()) for name in DRAWINGS if "gpu" not in name}
    labels = {name: DRAWINGS[name](content).axes[0] for name, content in records.items()}
    assert labels["end_to_end"].get_xlabel() == "times as fast as torchvision eager, FP32"
    assert labels["preprocess"].get_xlabel() == "times as fast as OpenCV with that frame"
    assert labels["postprocess"].get_xlabel() == "times as fast as torchvision's postprocess_detections"
    assert labels["detectors"].get_xlabel().endswith("= 1")
    assert "= 1 at" in labels["scaling"].get_ylabel()
    for name in ("end_to_end", "preprocess", "postprocess", "detectors"):
        legend = labels[name].get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()][:2] == ["this project", "others"]
    nms = [bar.get_hatch() for bar in labels["postprocess"].patches]
    assert nms == [None, None, None, "////"]
    ticks = [text.get_text() for text in labels["detectors"].get_xticklabels()]
    assert {"1", "10", "100"} <= set(ticks)


def test_the_line_under_a_table_warns_of_a_busy_machine() -> None:
    busy = fake_record("gpu")
    assert "other processes" not in source("gpu", busy)
    busy["conditions"]["before"]["load average"] = 8.1
    assert "**other processes used the CPU**" in source("gpu", busy)


def test_a_missing_cpu_result_is_an_error(folder: Path) -> None:
    (folder / "scaling.json").unlink()
    with pytest.raises(ValueError, match=r"run python -m benchmarks\.scaling"):
        with_figures(BENCHMARKS.read_text(encoding="utf-8"), folder)


def test_a_missing_mark_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected one pair of marks end_to_end, found 0"):
        with_figures("no marks", folder)
