"""Everything that needs an NVIDIA GPU, inside ten minutes and without a network: benchmarks and tests.

    python -m benchmarks.gpu

What matters most comes first. Each step has a limit, so that one that hangs costs only itself, and keeps what it has
measured until then. Results lie in ``benchmarks/results/*_gpu.json``; ``gpu.json`` says which steps ran, how they ended
and with which words, which tests passed, and which goals were met.
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
# By name: what the rest of the suite imports is not all there on a machine with a GPU and no network.
TEST_FILES = (
    "tests/engines/runner/test_gpu.py",
    "tests/engines/plugins/test_kernels.py",
    "tests/retina_edge/test_gpu.py",
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=LIMIT, help=f"for everything (default: {LIMIT:.0f})")
    limit = parser.parse_args(argv).seconds
    before, start = begin(), perf_counter()
    ended: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        planned = steps(work)
        for step, _, _ in planned:  # what an earlier run has left would pass for this one's
            (record.RESULTS / f"{step}{SUFFIXES['cuda']}.json").unlink(missing_ok=True)
        for step, arguments, share in planned:
            left = limit - (perf_counter() - start)
            ended.append(run_step(step, arguments, min(left, share), folder=ROOT))
            print(f"{step}: {ended[-1]['ended']} after {ended[-1]['seconds']} s", flush=True)
            figures = {
                "steps": ended,
                "tests": outcomes(report_of(work)),
                "goals": goals(record.RESULTS),
                "floors": floors(record.RESULTS),
            }
            save("gpu", figures, before=before)  # after each: the machine may be gone before the last
    for goal in figures["goals"]:
        said = "not measured" if goal["met"] is None else "met" if goal["met"] else "missed"
        print(f"{goal['goal']}: {goal['measured']} {goal['unit']}, {said}")
    return 0 if all(step["ended"] == "ok" for step in ended) else 1


def steps(work: Path) -> list[tuple[str, list[str], float]]:
    """Name, arguments of Python, and the most seconds it may take.

    All together they are longer than there is time: none is expected to take all it may.
    """
    # Each size of the network has a folder.
    onnx = work / str(SIDE) / "r50.onnx"
    gpu, shared = ["--device", "cuda"], ["--work", str(work)]
    tests = ["-m", "pytest", *TEST_FILES, "-m", "gpu", "--continue-on-collection-errors"]
    # A warning of a newer torch is no reason to know nothing of the GPU.
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
    """Where the tests leave their report."""
    return work / "tests.xml"


def outcomes(report: Path) -> list[dict[str, Any]]:
    """Each test of a JUnit report: name, outcome, seconds, and the first line of what went wrong or why it was skipped.

    Empty where there is no report, because the tests have not run or were stopped.
    """
    if not report.is_file():
        return []
    found = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        row: dict[str, Any] = {"test": name, "outcome": "passed", "seconds": round(float(case.get("time", 0)), 2)}
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                message = (child.get("message") or "").partition("\n")[0]
                row |= {"outcome": child.tag, "message": without_folders(message)}
        found.append(row)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
