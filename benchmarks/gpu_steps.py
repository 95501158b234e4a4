"""The steps of ``make gpu``, in order of what they tell for the time that they take."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from engines.core.errors import RetinaEdgeError
from engines.core.machine import this_machine
from engines.tensorrt.backend import find_backend
from engines.tensorrt.build_options import BuildOptions

SIDE = 800
KERNEL_TESTS = "tests/engines/plugins/test_kernels.py"
RUNNER_TESTS = "tests/engines/runner/test_gpu.py"
# Listed one by one, because the other tests import packages that a GPU machine without a network may lack.
TEST_FILES = (KERNEL_TESTS, RUNNER_TESTS, "tests/engines/onnx/test_gpu.py", "tests/retina_edge/test_gpu.py")
# The comparison of the runner with torch in FP32, for every batch size; torch also runs the runner's network.
PARITY = f"{RUNNER_TESTS}::test_heads_and_detections_are_those_of_torch_in_fp32[torch]"
SANITIZER = "compute-sanitizer"
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
# The sanitizer slows kernels down by a factor of a hundred, so it gets two small cases.
SANITIZER_CASES = "small or half"


@dataclass(frozen=True)
class Step:
    """A step.

    Attributes:
        name: name of the step; a benchmark writes ``benchmarks/results/NAME_gpu.json``.
        arguments: arguments of Python.
        least: seconds that the step may take in any case; on an H200, it needs fewer.
        share: share of the whole time that it may take.
        launcher: program that starts Python, with its options; empty for none.
        why_not: reason why the step cannot run here; empty if it can.

    Examples:
        >>> Step("runner", ["-m", "benchmarks.runner"], least=40, share=0.15).limit(600, remaining=550)
        90.0
    """

    name: str
    arguments: list[str]
    least: float
    share: float
    launcher: tuple[str, ...] = ()
    why_not: str = ""

    def limit(self, total: float, *, remaining: float) -> float:
        """Return the seconds that the step may take, of which some remain."""
        return min(remaining, max(self.least, self.share * total))


def steps(work: Path, *, sanitizer: bool = False) -> list[Step]:
    """Return the steps in order.

    The shares add up to more than 1, because no step is expected to use all of its own.

    Args:
        work: folder of exported models and engines. What ``make gpu-prepare`` has written there is not made again.
        sanitizer: also run the kernels under the tools of compute-sanitizer.
    """
    gpu, shared, onnx = ["--device", "cuda"], ["--work", str(work)], work / str(SIDE) / "r50.onnx"
    runner = ["-m", "benchmarks.runner", "--work", str(onnx.parent)]
    no_engine = why_no_engine()
    return [
        Step("environment", ["-m", "retina_edge", "doctor"], 20, 0.05),
        _tests("kernels", [KERNEL_TESTS], work, 30, 0.1),
        *(_sanitizer_steps(work) if sanitizer else []),
        Step("preprocess", ["-m", "benchmarks.preprocess", *gpu], 15, 0.08),
        _tests("parity", [PARITY], work, 40, 0.15),
        Step("runner", [*runner, "--torch"], 40, 0.15),
        Step("postprocess", ["-m", "benchmarks.postprocess", *gpu, *shared], 40, 0.13),
        Step("build", ["-m", "benchmarks.building", str(onnx), "fp16"], 90, 0.25, why_not=no_engine),
        Step("runner with an engine", runner, 60, 0.15, why_not=no_engine),
        # The compiled candidates are the last rows.
        Step("end_to_end", ["-m", "benchmarks.end_to_end", *gpu, "--sizes", str(SIDE), *shared], 60, 0.25),
        _tests("tests", [*TEST_FILES[1:], "--deselect", PARITY], work, 60, 0.2),
        Step("training", ["-m", "benchmarks.training", *gpu, "--seconds", "10", "--amp", "bf16"], 60, 0.12),
        Step("detectors", ["-m", "benchmarks.detectors", *gpu, *shared], 60, 0.15),
        Step("scaling", ["-m", "benchmarks.scaling", *gpu, *shared], 60, 0.15),
    ]


def why_no_engine() -> str:
    """Return the reason why no engine can be built here; empty if one can."""
    machine = this_machine()
    try:
        BuildOptions().for_backend(find_backend("auto", machine), machine)
    except RetinaEdgeError as error:
        return str(error)
    return ""


def report_of(work: Path, step: str) -> Path:
    """Return the path of the report that the tests of a step write."""
    return work / f"{step}.xml"


def _tests(name: str, arguments: list[str], work: Path, least: float, share: float) -> Step:
    """Return a step that runs tests. Their warnings are no errors: those of a newer torch say nothing about the GPU."""
    tests = ["-m", "pytest", *arguments, "-m", "gpu", "--continue-on-collection-errors", "-W", "default"]
    lenient = ["-rA", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report_of(work, name)}"]
    return Step(name, [*tests, *lenient], least, share)


def _sanitizer_steps(work: Path) -> list[Step]:
    found = shutil.which(SANITIZER) or shutil.which(SANITIZER, path="/usr/local/cuda/bin")
    why_not = "" if found else f"expected {SANITIZER} of the CUDA toolkit on PATH, found none; add its folder to PATH"
    rows = []
    for tool in SANITIZER_TOOLS:
        step = _tests(tool, [KERNEL_TESTS, "-k", SANITIZER_CASES], work, 60, 0.1)
        launcher = (found or SANITIZER, "--tool", tool, "--error-exitcode", "1")
        rows.append(Step(tool, step.arguments, step.least, step.share, launcher, why_not))
    return rows
