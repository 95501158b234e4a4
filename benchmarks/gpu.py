"""All benchmarks and tests that need an NVIDIA GPU, within ten minutes and without a network.

    python -m benchmarks.gpu

The most important steps run first. Each step has a time limit, so a step that hangs costs only its own time and keeps
the rows that it has. Results are written to ``benchmarks/results/*_gpu.json``. ``gpu.json`` lists the steps, how they
ended, the last lines of failed steps, the outcomes of the tests, and the goals.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from xml.etree import ElementTree

from benchmarks import record
from benchmarks.goals import floors, goals
from benchmarks.record import SUFFIXES, begin, save, without_folders
from benchmarks.step import run_step

ROOT = Path(__file__).parents[1]
LIMIT = 570.0
SIDE = 800
TESTS = "tests"
# Listed one by one, because the other tests import packages that a GPU machine without a network may lack.
TEST_FILES = (
    "tests/engines/runner/test_gpu.py",
    "tests/engines/onnx/test_gpu.py",
    "tests/engines/plugins/test_kernels.py",
    "tests/retina_edge/test_gpu.py",
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=LIMIT, help=f"seconds for all steps together (default: {LIMIT:.0f})"
    )
    limit = parser.parse_args(argv).seconds
    before, start = begin(), perf_counter()
    ended: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        planned = steps(work)
        for step, _, _ in planned:  # delete results of an earlier run, which would pass for results of this one
            (record.RESULTS / f"{step}{SUFFIXES['cuda']}.json").unlink(missing_ok=True)
        for step, arguments, step_limit in planned:
            remaining = limit - (perf_counter() - start)
            ended.append(run_step(step, arguments, min(remaining, step_limit), folder=ROOT))
            print(f"{step}: {ended[-1]['ended']} after {ended[-1]['seconds']} s", flush=True)
            figures = {
                "steps": ended,
                "tests": outcomes(report_of(work)),
                "goals": goals(record.RESULTS),
                "floors": floors(record.RESULTS),
            }
            save("gpu", figures, before=before)  # after every step, because the machine may be lost before the last one
    for goal in figures["goals"]:
        outcome = "not measured" if goal["met"] is None else "met" if goal["met"] else "missed"
        print(f"{goal['goal']}: {goal['measured']} {goal['unit']}, {outcome}")
    return 0 if all(step["ended"] == "ok" for step in ended) else 1


def steps(work: Path) -> list[tuple[str, list[str], float]]:
    """Return the steps in order: the name, the arguments of Python, and the largest number of seconds.

    The limits add up to more than the total time, because no step is expected to use all of its own.
    """
    # The scripts keep each input size in a folder.
    onnx = work / str(SIDE) / "r50.onnx"
    gpu, shared = ["--device", "cuda"], ["--work", str(work)]
    tests = ["-m", "pytest", *TEST_FILES, "-m", "gpu", "--continue-on-collection-errors"]
    # Warnings are not errors here, because a warning of a newer torch says nothing about the GPU.
    lenient = ["-W", "default", "-rA", "-q", "--tb=short", "-p", "no:cacheprovider"]
    return [
        ("export", ["-m", "benchmarks.networks", str(onnx), str(SIDE)], 90),
        ("build", ["-m", "benchmarks.building", str(onnx), "fp16"], 90),
        ("runner", ["-m", "benchmarks.runner", "--work", str(onnx.parent)], 90),
        ("preprocess", ["-m", "benchmarks.preprocess", *gpu], 45),
        ("postprocess", ["-m", "benchmarks.postprocess", *gpu, *shared], 75),
        ("end_to_end", ["-m", "benchmarks.end_to_end", *gpu, "--sizes", str(SIDE), *shared], 150),
        (TESTS, [*tests, *lenient, f"--junitxml={report_of(work)}"], 120),
        ("detectors", ["-m", "benchmarks.detectors", *gpu, *shared], 90),
        ("scaling", ["-m", "benchmarks.scaling", *gpu, *shared], 90),
    ]


def report_of(work: Path) -> Path:
    """Return the path of the report that the tests write."""
    return work / "tests.xml"


def outcomes(report: Path) -> list[dict[str, Any]]:
    """Return each test of a JUnit report: name, outcome, seconds, and the first line of the failure or skip message.

    The list is empty if there is no report, because the tests have not run or were stopped.
    """
    if not report.is_file():
        return []
    tests = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        row: dict[str, Any] = {"test": name, "outcome": "passed", "seconds": round(float(case.get("time", 0)), 2)}
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                message = (child.get("message") or "").partition("\n")[0]
                row |= {"outcome": child.tag, "message": without_folders(message)}
        tests.append(row)
    return tests


if __name__ == "__main__":
    raise SystemExit(main())
