"""``make gpu``: its steps, what is left of one that fails or hangs, its tests, and the goals."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import arguments, end_to_end, gpu, postprocess, preprocess
from benchmarks import goals as goals_module
from benchmarks import runner as runner_module
from benchmarks.end_to_end import Case
from benchmarks.goals import floors, goals
from benchmarks.gpu import ROOT, TEST_FILES, outcomes, report_of, steps
from benchmarks.step import GRACE, LINES, run_step
from engines.executor import NETWORK, POSTPROCESS, PREPROCESS

HANGS = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
REPORT = """<?xml version="1.0"?><testsuites><testsuite hostname="a-name">
<testcase classname="tests.a" name="test_one" time="1.234"/>
<testcase classname="tests.a" name="test_two" time="0.1">
<failure message="assert 1 == 2&#10;more">long</failure></testcase>
<testcase classname="tests.b" name="test_three" time="0"><skipped message="needs /a/b/c/pycuda"/></testcase>
</testsuite></testsuites>"""


def test_a_step_that_succeeds_is_ok(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = run_step("hello", ["-c", "import os; print(os.getcwd())"], 30, folder=tmp_path)
    assert found == {"step": "hello", "ended": "ok", "seconds": found["seconds"]}
    assert capfd.readouterr().out == f"{tmp_path}\n"


def test_the_last_words_of_a_step_that_fails_are_kept_and_shown(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = f"for i in range({2 * LINES}): print(i)\nraise SystemExit('TensorRT: /opt/some/where/lib.so is missing')"
    found = run_step("fails", ["-c", code], 30, folder=tmp_path)
    assert found["ended"] == "exit code 1"
    assert len(found["last_lines"]) == LINES
    assert found["last_lines"][-1] == "TensorRT: …/where/lib.so is missing"
    assert found["last_lines"][0] == str(LINES + 1)
    said = capfd.readouterr().out
    assert "0\n1\n2\n" in said
    assert "TensorRT: /opt" in said


def test_a_step_that_hangs_is_ended_with_all_it_started_and_its_words_are_kept(tmp_path: Path) -> None:
    start = time.perf_counter()
    code = f"{HANGS}\nprint('child', child.pid)\ntime.sleep(60)"
    found = run_step("hangs", ["-c", code], 1.0, folder=tmp_path)
    assert time.perf_counter() - start < 1 + 2 * GRACE
    assert found["ended"] == "took longer than 1 s"
    child = int(found["last_lines"][0].split()[1])
    assert not _runs(child)


def test_a_child_that_outlives_its_step_is_ended(tmp_path: Path) -> None:
    found = run_step("leaves", ["-c", f"{HANGS}\nprint(child.pid, file=open('pid', 'w'))"], 30, folder=tmp_path)
    assert found["ended"] == "ok"
    assert found["seconds"] < 20
    assert not _runs(int((tmp_path / "pid").read_text()))


def test_without_time_left_nothing_is_started(tmp_path: Path) -> None:
    assert run_step("late", ["-c", "1 / 0"], 0.0, folder=tmp_path) == {
        "step": "late",
        "ended": "no time left",
        "seconds": 0.0,
    }


def test_what_matters_most_comes_first_and_models_are_made_once(tmp_path: Path) -> None:
    planned = {name: options for name, options, _ in steps(tmp_path)}
    order = "export build runner preprocess postprocess end_to_end tests detectors scaling"
    assert list(planned) == order.split()
    onnx = Path(planned["export"][2])
    assert planned["build"][2:] == [str(onnx), "fp16"]
    runner = Path(planned["runner"][planned["runner"].index("--work") + 1])
    assert runner / "r50.onnx" == onnx  # where the runner looks
    assert tmp_path / "800" / "r50.onnx" == onnx  # and the rest
    for name in ("postprocess", "end_to_end", "detectors", "scaling"):
        assert planned[name][planned[name].index("--work") + 1] == str(tmp_path)
    for name in ("preprocess", "postprocess", "end_to_end", "detectors", "scaling"):
        assert planned[name][planned[name].index("--device") + 1] == "cuda"


@pytest.mark.parametrize("name", [name for name, options, _ in steps(Path("work")) if options[1].startswith("bench")])
def test_every_step_is_a_script_that_knows_its_arguments(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parsed and not run: of all arguments only the one that is not there is complained of."""
    _, module, *options = {step: options for step, options, _ in steps(tmp_path)}[name]
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(module).main([*options, "--not-there"])
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --not-there\n")


def test_the_gpu_tests_are_collected_without_the_packages_that_a_gpu_machine_lacks(tmp_path: Path) -> None:
    """Every file with a test marked ``gpu`` is named, and none needs what is not there."""
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "mark." + "gpu" in path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in marked} == set(TEST_FILES)
    options = {step: options for step, options, _ in steps(tmp_path)}["tests"]
    assert options[:2] == ["-m", "pytest"]
    missing = ("pycocotools", "faster_coco_eval", "supervision", "tensorrt_rtx", "cuda", "matplotlib", "tensorboard")
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
sys.path.insert(0, "")
import pytest
raise SystemExit(pytest.main({options[2:]!r} + ["--collect-only"]))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    for file in TEST_FILES:
        assert f"{file}::" in run.stdout


def test_outcomes_of_tests_stand_in_the_results_without_the_machine_s_name(tmp_path: Path) -> None:
    assert outcomes(report_of(tmp_path)) == []
    report_of(tmp_path).write_text(REPORT)
    found = outcomes(report_of(tmp_path))
    assert found == [
        {"test": "tests.a.test_one", "outcome": "passed", "seconds": 1.23},
        {"test": "tests.a.test_two", "outcome": "failure", "seconds": 0.1, "message": "assert 1 == 2"},
        {"test": "tests.b.test_three", "outcome": "skipped", "seconds": 0.0, "message": "needs …/c/pycuda"},
    ]
    assert "a-name" not in json.dumps(found)


def test_everything_is_written_after_each_step_and_results_of_before_are_gone(
    results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    results.mkdir()
    (results / "runner_gpu.json").write_text(json.dumps({"figures": runner()}))
    (results / "scaling.json").write_text("{}")
    show = f"import json; print(len(json.load(open({str(results / 'gpu.json')!r}))['figures']['steps']))"
    planned = [
        ("runner", ["-c", "print('first')"], 30.0),
        ("scaling", ["-c", show], 30.0),
        ("bad", ["-c", "1/0"], 30.0),
    ]
    monkeypatch.setattr(gpu, "steps", lambda _: planned)
    assert gpu.main([]) == 1
    found = json.loads((results / "gpu.json").read_text(encoding="utf-8"))["figures"]
    assert [step["ended"] for step in found["steps"]] == ["ok", "ok", "exit code 1"]
    assert found["steps"][2]["last_lines"][-1] == "ZeroDivisionError: division by zero"
    assert not (results / "runner_gpu.json").exists()
    assert (results / "scaling.json").exists()
    assert {goal["met"] for goal in found["goals"]} == {None}
    said = capfd.readouterr().out
    assert "first\n" in said
    assert "\n1\n" in said  # what the second step saw of the first
    assert "bad: exit code 1" in said


def runner(**changes: Any) -> dict[str, Any]:
    stages = {"preprocess": 0.01, "engine": 1.5, "postprocess": 0.08, "GPU": 2.0, "whole frame": 2.1}
    found = {
        "network": "TensorRT-RTX engine, FP16",
        "why": "",
        "milliseconds": {
            stage: {"runs": 100, "mean": ms, "p50": ms, "p90": ms, "p99": ms} for stage, ms in stages.items()
        },
        "jitter": 1.05,
        "host_overhead": 0.05,
        "throughput": {"frames": 10, "seconds": 1.0, "frames_per_second": 600.0},
    }
    return {**found, **changes}


BY_KERNEL = {"frame": [1080, 1920], "input": [800, 800], "candidate": "fused kernel, GPU", "ms": 0.004}
BY_KERNELS = {"candidate": "kernels", "classes": 91, "batch": 1, "type": "float16", "ms": 0.05, "filter_ms": 0.0102}
EAGER = {"candidate": "torchvision eager, FP32", "ms": 21.0, "ratio": 1.0}
ENGINE = {"candidate": "retina_edge engine, FP16", "ms": 2.5, "ratio": 7.9}
ON_TORCH = {"candidate": "retina_edge on torch, FP16", "ms": 2.5, "ratio": 8.4}
NAMES = ("host", "jitter", "preprocessing", "post-processing", "engine", "whole frame")


def written(folder: Path, **figures: Any) -> Path:
    for name, value in figures.items():
        (folder / f"{name}_gpu.json").write_text(json.dumps({"figures": value}))
    return folder


def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    found = dict(zip(NAMES, goals(folder), strict=True))
    assert all(row["goal"].startswith(name) for name, row in found.items())
    return found


def test_results_are_looked_up_by_the_names_that_the_scripts_give_them() -> None:
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
    assert BY_KERNEL["input"] == [gpu.SIDE, gpu.SIDE]


def test_the_first_of_all_scripts_needs_no_torch() -> None:
    """It says what is missing; if it needed it, it could not."""
    code = "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; import benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_goals_are_held_against_what_was_measured(tmp_path: Path) -> None:
    written(tmp_path, runner=runner(), end_to_end=[EAGER, ENGINE], postprocess=[BY_KERNELS], preprocess=[BY_KERNEL])
    found = by_name(tmp_path)
    assert {name: row["met"] for name, row in found.items()} == {
        "host": True,
        "jitter": True,
        "preprocessing": True,
        "post-processing": True,
        "engine": True,
        "whole frame": False,
    }
    assert found["host"]["measured"] == found["host"]["at most"] == 0.05
    assert found["whole frame"] | {"unit": ""} == {
        "goal": "whole frame, times as fast as torchvision's eager FP32",
        "unit": "",
        "at least": 8.0,
        "measured": 7.9,
        "met": False,
        "from": "end_to_end_gpu.json",
    }
    assert found["preprocessing"]["from"] == "runner_gpu.json"
    assert [(row["ms"], row["measured"], row["times"]) for row in floors(tmp_path)] == [
        (0.38, 1.5, 3.95),
        (0.0023, 0.01, 4.35),
        (0.0051, 0.0102, 2.0),
    ]


def test_with_torch_in_its_place_the_engine_s_goal_is_open_and_the_rest_is_measured(tmp_path: Path) -> None:
    by_torch = runner(network="torch, FP16", why="no engine for this GPU")
    del by_torch["milliseconds"]["postprocess"]
    failed = {"candidate": "retina_edge engine, FP16", "not_run": "no engine for this GPU"}
    written(tmp_path, runner=by_torch, end_to_end=[EAGER, failed, ON_TORCH], postprocess=[BY_KERNELS])
    found = by_name(tmp_path)
    assert found["engine"]["met"] is None
    assert found["engine"]["why"] == "no engine runs on this GPU: no engine for this GPU"
    assert found["whole frame"]["measured"] == 8.4
    assert found["post-processing"]["measured"] == 0.05
    assert found["post-processing"]["from"] == "postprocess_gpu.json"
    assert floors(tmp_path)[0]["measured"] == 1.5


def test_the_speedup_comes_from_the_runner_where_end_to_end_has_no_row_of_ours(tmp_path: Path) -> None:
    written(tmp_path, runner=runner(), end_to_end=[EAGER])
    assert by_name(tmp_path)["whole frame"]["measured"] == 10.0


@pytest.mark.parametrize(
    "figures",
    [{}, {"runner": runner(jitter=None, host_overhead=None, milliseconds={}), "end_to_end": []}],
    ids=["no files", "files without figures"],
)
def test_what_was_not_measured_is_neither_met_nor_missed(tmp_path: Path, figures: dict[str, Any]) -> None:
    for row in goals(written(tmp_path, **figures)):
        assert row["met"] is None
        assert row["measured"] is None
        assert row["why"]
    assert all(row["times"] is None for row in floors(tmp_path))


@pytest.mark.parametrize(
    ("gpu_here", "chosen", "expected"),
    [
        ("", "auto", ["cpu"]),
        ("", "cpu", ["cpu"]),
        ("H200", "auto", ["cpu", "cuda"]),
        ("H200", "cpu", ["cpu"]),
        ("H200", "cuda", ["cuda"]),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, gpu_here: str, chosen: str, expected: list[str]) -> None:
    monkeypatch.setattr(arguments, "this_machine", lambda: _Here(gpu_here))
    assert arguments.devices(chosen) == expected


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "this_machine", lambda: _Here(""))
    with pytest.raises(SystemExit, match="expected an NVIDIA GPU and its driver, found none"):
        arguments.devices("cuda")


@pytest.mark.parametrize(("has_both", "expected"), [(True, "{}/bin/python"), (False, "python-of-the-system")])
def test_make_gpu_takes_the_environment_that_has_torch_and_pytest(
    tmp_path: Path, has_both: bool, expected: str
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nexit {0 if has_both else 1}\n")
    python.chmod(0o755)
    command = ["make", "-n", "gpu", f"VENV={tmp_path}", "PYTHON=python-of-the-system"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == f"{expected.format(tmp_path)} -m benchmarks.gpu\n"


class _Here:
    def __init__(self, gpu: str) -> None:
        self.gpu = gpu


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie, after a moment to end."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return False
        except OSError:
            return False
        time.sleep(0.1)
    return True
