"""``make gpu``: its steps, what is left of one that fails or hangs, its tests, and the Python it takes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import arguments, gpu
from benchmarks.gpu import ROOT, TEST_FILES, outcomes, report_of, steps
from benchmarks.step import GRACE, LINES, run_step

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
    (results / "runner_gpu.json").write_text(json.dumps({"figures": {"jitter": 1.0}}))
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


def test_the_first_of_all_scripts_needs_no_torch() -> None:
    """It says what is missing; if it needed it, it could not."""
    code = "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; import benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


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
    # As from a shell, also where make runs the tests: it tells the make inside to print folders.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
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
