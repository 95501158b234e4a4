"""``make gpu``: its steps, also if one fails or hangs, its tests, and the Python that it chooses."""

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
    outcome = run_step("hello", ["-c", "import os; print(os.getcwd())"], 30, folder=tmp_path)
    assert outcome == {"step": "hello", "ended": "ok", "seconds": outcome["seconds"]}
    assert capfd.readouterr().out == f"{tmp_path}\n"


def test_the_last_lines_of_a_failed_step_are_kept_and_its_output_is_shown(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = f"for i in range({2 * LINES}): print(i)\nraise SystemExit('TensorRT: /opt/some/where/lib.so is missing')"
    outcome = run_step("fails", ["-c", code], 30, folder=tmp_path)
    assert outcome["ended"] == "exit code 1"
    assert len(outcome["last_lines"]) == LINES
    assert outcome["last_lines"][-1] == "TensorRT: …/where/lib.so is missing"
    assert outcome["last_lines"][0] == str(LINES + 1)
    output = capfd.readouterr().out
    assert "0\n1\n2\n" in output
    assert "TensorRT: /opt" in output


def test_a_step_that_hangs_is_ended_with_its_children_and_its_output_is_kept(tmp_path: Path) -> None:
    start = time.perf_counter()
    code = f"{HANGS}\nprint('child', child.pid)\ntime.sleep(60)"
    outcome = run_step("hangs", ["-c", code], 1.0, folder=tmp_path)
    assert time.perf_counter() - start < 1 + 2 * GRACE
    assert outcome["ended"] == "took longer than 1 s"
    child = int(outcome["last_lines"][0].split()[1])
    assert not _still_runs(child)


def test_a_child_that_outlives_its_step_is_ended(tmp_path: Path) -> None:
    outcome = run_step("leaves", ["-c", f"{HANGS}\nprint(child.pid, file=open('pid', 'w'))"], 30, folder=tmp_path)
    assert outcome["ended"] == "ok"
    assert outcome["seconds"] < 20
    assert not _still_runs(int((tmp_path / "pid").read_text()))


def test_a_step_is_not_started_if_no_time_is_left(tmp_path: Path) -> None:
    assert run_step("late", ["-c", "1 / 0"], 0.0, folder=tmp_path) == {
        "step": "late",
        "ended": "no time left",
        "seconds": 0.0,
    }


def test_the_most_important_steps_come_first_and_share_their_models(tmp_path: Path) -> None:
    planned = {name: options for name, options, _ in steps(tmp_path)}
    order = "export build runner preprocess postprocess end_to_end tests detectors scaling"
    assert list(planned) == order.split()
    onnx = Path(planned["export"][2])
    assert planned["build"][2:] == [str(onnx), "fp16"]
    runner = Path(planned["runner"][planned["runner"].index("--work") + 1])
    assert runner / "r50.onnx" == onnx  # the runner finds the exported file
    assert tmp_path / "800" / "r50.onnx" == onnx  # and so do the other scripts
    for name in ("postprocess", "end_to_end", "detectors", "scaling"):
        assert planned[name][planned[name].index("--work") + 1] == str(tmp_path)
    for name in ("preprocess", "postprocess", "end_to_end", "detectors", "scaling"):
        assert planned[name][planned[name].index("--device") + 1] == "cuda"


@pytest.mark.parametrize("name", [name for name, options, _ in steps(Path("work")) if options[1].startswith("bench")])
def test_every_script_accepts_the_arguments_of_its_step(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The arguments are only parsed: the parser rejects no argument but the unknown one that is added."""
    _, module, *options = {step: options for step, options, _ in steps(tmp_path)}[name]
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(module).main([*options, "--not-there"])
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --not-there\n")


def test_every_file_with_a_gpu_test_is_listed() -> None:
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "mark." + "gpu" in path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in marked} == set(TEST_FILES)


@pytest.mark.slow
def test_gpu_tests_are_collected_without_the_packages_that_a_gpu_machine_may_lack(tmp_path: Path) -> None:
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


def test_outcomes_of_tests_do_not_contain_the_name_of_the_machine(tmp_path: Path) -> None:
    assert outcomes(report_of(tmp_path)) == []
    report_of(tmp_path).write_text(REPORT)
    tests = outcomes(report_of(tmp_path))
    assert tests == [
        {"test": "tests.a.test_one", "outcome": "passed", "seconds": 1.23},
        {"test": "tests.a.test_two", "outcome": "failure", "seconds": 0.1, "message": "assert 1 == 2"},
        {"test": "tests.b.test_three", "outcome": "skipped", "seconds": 0.0, "message": "needs …/c/pycuda"},
    ]
    assert "a-name" not in json.dumps(tests)


def test_the_result_is_written_after_each_step_and_old_results_are_deleted(
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
    figures = json.loads((results / "gpu.json").read_text(encoding="utf-8"))["figures"]
    assert [step["ended"] for step in figures["steps"]] == ["ok", "ok", "exit code 1"]
    assert figures["steps"][2]["last_lines"][-1] == "ZeroDivisionError: division by zero"
    assert not (results / "runner_gpu.json").exists()
    assert (results / "scaling.json").exists()
    assert {goal["met"] for goal in figures["goals"]} == {None}
    output = capfd.readouterr().out
    assert "first\n" in output
    assert "\n1\n" in output  # the second step read the file with one step
    assert "bad: exit code 1" in output


def test_the_script_itself_needs_no_torch() -> None:
    """Without torch, the script must still run, to report what is missing."""
    code = "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; import benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("gpu", "chosen", "expected"),
    [
        ("", "auto", ["cpu"]),
        ("", "cpu", ["cpu"]),
        ("H200", "auto", ["cpu", "cuda"]),
        ("H200", "cpu", ["cpu"]),
        ("H200", "cuda", ["cuda"]),
    ],
)
def test_auto_measures_every_device_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, gpu: str, chosen: str, expected: list[str]
) -> None:
    monkeypatch.setattr(arguments, "this_machine", lambda: _FakeMachine(gpu))
    assert arguments.devices(chosen) == expected


def test_cuda_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "this_machine", lambda: _FakeMachine(""))
    with pytest.raises(SystemExit, match="expected an NVIDIA GPU and its driver, found none"):
        arguments.devices("cuda")


@pytest.mark.parametrize(("has_both", "expected"), [(True, "{}/bin/python"), (False, "python-of-the-system")])
def test_make_gpu_uses_the_environment_if_it_has_torch_and_pytest(
    tmp_path: Path, has_both: bool, expected: str
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nexit {0 if has_both else 1}\n")
    python.chmod(0o755)
    command = ["make", "-n", "gpu", f"VENV={tmp_path}", "PYTHON=python-of-the-system"]
    # As in a shell: if make runs the tests, its variables tell an inner make to print folders.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"{expected.format(tmp_path)} -m benchmarks.gpu\n"


class _FakeMachine:
    def __init__(self, gpu: str) -> None:
        self.gpu = gpu


def _still_runs(pid: int) -> bool:
    """True if a process still runs (a zombie does not) after 5 seconds."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return False
        except OSError:
            return False
        time.sleep(0.1)
    return True
