"""``make gpu``: its steps, also if one fails or hangs, its tests, and the Python that it chooses."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import arguments, building, gpu, gpu_prepare, gpu_steps
from benchmarks.gpu import ROOT, outcomes
from benchmarks.gpu_steps import TEST_FILES, Step, report_of, steps
from benchmarks.step import GRACE, LINES, run_step
from engines import __version__
from engines.core.errors import MissingDependencyError
from engines.core.machine import this_machine

HANGS = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
# A step that leaves a process in another group, and prints its id.
LEAVES = """
from pathlib import Path
from benchmarks import step
step.GRACE = 0.1
child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"
ended = step.run_step("leaves", ["-c", f"import subprocess, sys; print({child}.pid)"], 30, folder=Path())["ended"]
assert ended == "ok"
"""
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


def test_a_process_that_leaves_its_step_does_not_hold_up_the_end() -> None:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", LEAVES], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    os.kill(int(done.stdout), signal.SIGKILL)
    assert time.perf_counter() - start < 30


def test_a_step_is_not_started_if_no_time_is_left(tmp_path: Path) -> None:
    assert run_step("late", ["-c", "1 / 0"], 0.0, folder=tmp_path) == {
        "step": "late",
        "ended": "no time left",
        "seconds": 0.0,
    }


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has a GPU, and nothing to build engines with."""
    monkeypatch.setattr(gpu, "this_machine", lambda: _FakeMachine("H200"))
    monkeypatch.setattr(gpu_steps, "why_no_engine", lambda: "no TensorRT")


def planned(work: Path, **options: bool) -> dict[str, Step]:
    return {step.name: step for step in steps(work, **options)}


def test_the_steps_that_tell_most_come_first_and_share_their_models(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    order = (
        "environment, kernels, preprocess, parity, runner, postprocess, build, runner with an engine, end_to_end, "
        "tests, training, detectors, scaling"
    )
    assert ", ".join(plan) == order
    onnx = Path(plan["build"].arguments[2])
    assert onnx == tmp_path / "800" / "r50.onnx"
    for name in ("runner", "runner with an engine"):
        work = plan[name].arguments[plan[name].arguments.index("--work") + 1]
        assert Path(work) / "r50.onnx" == onnx  # the runner finds the exported file
    for name in ("postprocess", "end_to_end", "detectors", "scaling"):
        assert plan[name].arguments[plan[name].arguments.index("--work") + 1] == str(tmp_path)
    for name in ("preprocess", "postprocess", "end_to_end", "training", "detectors", "scaling"):
        assert plan[name].arguments[plan[name].arguments.index("--device") + 1] == "cuda"


@pytest.mark.parametrize(("seconds", "reached"), [(120, "runner"), (300, "end_to_end"), (570, "scaling")])
def test_steps_that_hang_leave_time_for_those_after_them(tmp_path: Path, seconds: float, reached: str) -> None:
    """Two steps use all of their time; the others need what they needed on an H200, or what is like it."""
    usual = {"environment": 5, "kernels": 7, "preprocess": 5, "parity": 15, "runner": 24, "postprocess": 24}
    usual |= {"end_to_end": 90, "tests": 40, "training": 30, "detectors": 60, "scaling": 60}
    for hanging in (("kernels",), ("preprocess", "parity") if seconds > 120 else ("preprocess",)):
        spent, done = 0.0, []
        for name, step in planned(tmp_path).items():
            if name not in usual:
                continue  # without TensorRT
            limit = step.limit(seconds, remaining=seconds - spent)
            spent += limit if name in hanging else min(usual[name], limit)
            if limit > 0:
                done.append(name)
        assert reached in done


def test_nothing_is_prepared_for_a_backend_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_steps, "why_no_engine", lambda: "expected TensorRT, found none")
    left_out = {name: step.why_not for name, step in planned(tmp_path).items() if step.why_not}
    assert left_out == dict.fromkeys(("build", "runner with an engine"), "expected TensorRT, found none")
    monkeypatch.setattr(building, "find_backend", _no_backend)
    with pytest.raises(MissingDependencyError, match="no TensorRT"):
        building.build_once(_unused, "int8")


def _no_backend(*_: object) -> object:
    raise MissingDependencyError("no TensorRT")


def _unused() -> Path:
    raise AssertionError("exported for nothing")


def test_the_sanitizer_runs_the_kernels_under_four_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/cuda/bin/compute-sanitizer")
    plan = planned(tmp_path, sanitizer=True)
    tools = ["memcheck", "racecheck", "synccheck", "initcheck"]
    assert list(plan)[2:6] == tools
    for tool in tools:
        assert plan[tool].launcher == ("/cuda/bin/compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
        assert gpu_steps.KERNEL_TESTS in plan[tool].arguments
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert "found none" in planned(tmp_path, sanitizer=True)["memcheck"].why_not


def test_a_launcher_starts_python(tmp_path: Path) -> None:
    outcome = run_step("env", ["-c", "import os; assert os.environ['SAID'] == '1'"], 30, folder=tmp_path,
                       launcher=("env", "SAID=1"))  # fmt: skip
    assert outcome["ended"] == "ok"


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("kernels", 6),
        pytest.param("memcheck", 3, marks=pytest.mark.slow),
        pytest.param("parity", 1, marks=pytest.mark.slow),
    ],
)
def test_the_selected_tests_exist(tmp_path: Path, name: str, cases: int) -> None:
    arguments = planned(tmp_path, sanitizer=True)[name].arguments
    run = subprocess.run(
        [sys.executable, *arguments, "--collect-only"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert sum("::test_" in line for line in run.stdout.splitlines()) == cases, run.stdout[-2000:]


@pytest.mark.parametrize("name", [step.name for step in steps(Path("work")) if step.arguments[1].startswith("bench")])
def test_every_script_accepts_the_arguments_of_its_step(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The arguments are only parsed: the parser rejects no argument but the unknown one that is added."""
    _, module, *options = planned(tmp_path)[name].arguments
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(module).main([*options, "--not-there"])
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --not-there\n")


def test_every_file_with_a_gpu_test_is_listed() -> None:
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "mark." + "gpu" in path.read_text()}
    assert {str(path.relative_to(ROOT)) for path in marked} == set(TEST_FILES)


@pytest.mark.slow
def test_gpu_tests_are_collected_without_the_packages_that_a_gpu_machine_may_lack(tmp_path: Path) -> None:
    options = planned(tmp_path)["tests"].arguments
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
    for file in TEST_FILES[1:]:
        assert f"{file}::" in run.stdout


def test_outcomes_of_tests_do_not_contain_the_name_of_the_machine(tmp_path: Path) -> None:
    assert outcomes(report_of(tmp_path, "tests")) == []
    report_of(tmp_path, "tests").write_text(REPORT[: len(REPORT) // 2])  # pytest was killed while it wrote it
    assert outcomes(report_of(tmp_path, "tests")) == []
    report_of(tmp_path, "tests").write_text(REPORT)
    tests = outcomes(report_of(tmp_path, "tests"))
    assert tests == [
        {"test": "tests.a.test_one", "outcome": "passed", "seconds": 1.23},
        {"test": "tests.a.test_two", "outcome": "failure", "seconds": 0.1, "message": "assert 1 == 2"},
        {"test": "tests.b.test_three", "outcome": "skipped", "seconds": 0.0, "message": "needs …/c/pycuda"},
    ]
    assert "a-name" not in json.dumps(tests)


@pytest.mark.usefixtures("h200")
def test_the_result_is_written_after_each_step_and_old_results_are_deleted(
    results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    results.mkdir()
    (results / "runner_gpu.json").write_text(json.dumps({"figures": {"jitter": 1.0}}))
    (results / "scaling.json").write_text("{}")
    show = f"import json; print(len(json.load(open({str(results / 'gpu.json')!r}))['figures']['steps']))"
    fake = [
        Step("runner", ["-c", "print('first')"], 30, 0.1),
        Step("scaling", ["-c", show], 30, 0.1),
        Step("bad", ["-c", "1/0"], 30, 0.1),
        Step("build", ["-c", "1/0"], 30, 0.1, why_not="expected TensorRT in /opt/some/where/lib, found none"),
    ]
    monkeypatch.setattr(gpu, "steps", lambda *_, **__: fake)
    assert gpu.main(["--work", str(results / "work")]) == 1
    figures = json.loads((results / "gpu.json").read_text(encoding="utf-8"))["figures"]
    assert [step["ended"] for step in figures["steps"]] == ["ok", "ok", "exit code 1", "left out"]
    assert figures["steps"][3]["why"] == "expected TensorRT in …/where/lib, found none"
    assert figures["steps"][2]["last_lines"][-1] == "ZeroDivisionError: division by zero"
    assert not (results / "runner_gpu.json").exists()
    assert (results / "scaling.json").exists()
    assert {goal["met"] for goal in figures["goals"]} == {None}
    output = capfd.readouterr().out
    assert "first\n" in output
    assert "\n1\n" in output  # the second step read the file with one step
    assert "bad: exit code 1" in output
    assert "the runner measured no jitter" in " ".join(output.replace("│", " ").split())  # in the table of the goals


def test_without_a_gpu_the_script_refuses_at_once(results: Path) -> None:
    if this_machine().gpu:
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit, match="expected an NVIDIA GPU and its driver, found none; look at nvidia-smi"):
        gpu.main(["--seconds", "120"])
    assert not results.exists()


# Writes a row every tenth of a second, and logs it afterwards; then succeeds, fails or hangs.
ROWS = """
import sys, time
from pathlib import Path
from benchmarks import record
record.RESULTS = Path(sys.argv[1])
rows = []
for number in range(4):
    rows.append({"row": number})
    record.save(sys.argv[2], rows, suffix="_gpu")
    with open(record.RESULTS / f"{sys.argv[2]}.log", "a") as log:
        print(number, file=log)
    time.sleep(0.1)
if sys.argv[2] == "fails": 1 / 0
if sys.argv[2] == "hangs": time.sleep(60)
"""
REHEARSAL = """
import sys
from pathlib import Path
from benchmarks import gpu, gpu_steps, record
record.RESULTS = results = Path(sys.argv[1])
names = ("fails", "works", "hangs", "last")
gpu.steps = lambda *_, **__: [gpu_steps.Step(name, ["-c", sys.argv[2], str(results), name], 8, 0.1) for name in names]
gpu.run_steps(results, 60, sanitizer=False)
"""


@pytest.mark.parametrize("cut_after", [pytest.param(None, marks=pytest.mark.slow), 1.1, 2.9, 4.3])
def test_whatever_was_measured_stands_in_the_files(tmp_path: Path, cut_after: float | None) -> None:
    """A step fails, one hangs, and the machine goes away at some moment."""
    process = subprocess.Popen(
        [sys.executable, "-c", REHEARSAL, str(tmp_path), ROWS], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        process.communicate(timeout=cut_after or 120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    logged = {path.stem: len(path.read_text().splitlines()) for path in tmp_path.glob("*.log")}
    for name, rows in logged.items():
        content = json.loads((tmp_path / f"{name}_gpu.json").read_text(encoding="utf-8"))
        assert [row["row"] for row in content["figures"]][:rows] == list(range(rows))
    if cut_after is None:
        assert logged == dict.fromkeys(("fails", "works", "hangs", "last"), 4)
        steps = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["figures"]["steps"]
        assert [step["ended"] for step in steps] == ["exit code 1", "ok", "took longer than 8 s", "ok"]
        assert steps[0]["last_lines"][-1] == "ZeroDivisionError: division by zero"
    elif (tmp_path / "gpu.json").exists():
        json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_an_export_needs_no_installed_project(tmp_path: Path) -> None:
    """A bare checkout has no metadata of the project."""
    code = """
import importlib.metadata as metadata, sys
version = metadata.version
def without_the_project(name):
    if name.replace("_", "-") == "retina-edge":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without_the_project
from benchmarks import networks, record
networks.main(sys.argv[1:])
print(record.versions()["retina-edge"])
"""
    onnx = tmp_path / "r50.onnx"
    run = subprocess.run(
        [sys.executable, "-c", code, str(onnx), "64"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.endswith(f"{__version__}\n")
    assert onnx.is_file()


@pytest.mark.slow
def test_models_are_prepared_without_a_gpu_and_old_ones_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "320" / "r50.int8-tensorrt.onnx"
    old.parent.mkdir()
    old.write_text("old")
    assert gpu_prepare.main(["--work", str(tmp_path), "--side", "320", "--no-engines"]) == 0
    names = ["r50.fp16.onnx", "r50.int8-tensorrt.onnx", "r50.onnx"]
    assert sorted(path.name for path in (tmp_path / "320").iterdir()) == names
    assert old.stat().st_size > 1000
    assert "320/r50.fp16.onnx: " in capsys.readouterr().out


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
