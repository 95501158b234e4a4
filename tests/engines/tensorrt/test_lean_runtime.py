"""Tests of TensorRT's lean runtime itself, without a GPU: what the wheels contain, and our words if it cannot start.

pip installs the wheels as it does for users, into a folder that is kept in pytest's cache: tens of megabytes a version.
Each test runs in a process of its own, because a process can load one version. No engine can be loaded without a GPU;
``tests/engines/runner/test_executor.py`` runs one on a stand-in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.published import installed

ROOT = Path(__file__).parents[3]
NEWEST = "11.4.0.106"
VERSIONS = (NEWEST, *(pytest.param(version, marks=pytest.mark.slow) for version in ("10.15.1.29", "10.16.1.11")))
# The classes of the objects that the runner holds, by its names for them.
CLASSES = {
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "context": "IExecutionContext",
}
PROBE = """
import json, sys
import tensorrt_lean

def exists(name):
    found = tensorrt_lean
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None

missing = [name for name in json.loads(sys.argv[1]) if not exists(name)]
print(json.dumps([tensorrt_lean.__version__, missing, exists("Builder")]))
"""
# The machine has a GPU as far as this program knows. Then the lean runtime finds no driver, or one that is too old.
START = """
import sys
from pathlib import Path
from engines.core.errors import DeviceError
from engines.core.machine import Machine
from engines.runner.tensorrt_network import TensorRTNetwork
from engines.tensorrt.backend import find_runtime
from engines.tensorrt.compatibility import check_runs_here
from tests.engines.tensorrt.test_passport import ORIN, PLAN, passport

lean = find_runtime("tensorrt", Machine("NVIDIA L4", "8.9"), lean=True)
print(lean.name, lean.version)
for version, lean_runtime in (("10.3.0.30", None), ("99.0.0.1", "inside"), ("10.3.0.30", "separate")):
    other = passport(backend_version=version, lean_runtime=lean_runtime)
    try:
        check_runs_here(other, "model.engine", backend=lean.name, version=lean.version, machine=ORIN)
    except DeviceError as error:
        print(error)
engine = Path(sys.argv[1])
engine.write_bytes(PLAN)
fitting = passport(backend_version=lean.version, lean_runtime="inside")
check_runs_here(fitting, engine, backend=lean.name, version=lean.version, machine=ORIN)
try:
    TensorRTNetwork(None, engine, fitting, lean, cuda_graph=False)
except DeviceError as error:
    print(error)
"""


def used_by_the_runner() -> set[str]:
    """Return the names that the runner uses in TensorRT, read from its source, such as ``ICudaEngine.num_aux_streams``.

    What it uses only for TensorRT-RTX has other names there: ``trt`` and ``engine``.
    """
    source = (ROOT / "engines" / "runner" / "tensorrt_network.py").read_text(encoding="utf-8")
    names = set(re.findall(r"self\._backend\.module\.(\w+(?:\.\w+)?)", source))
    for holder, attribute in re.findall(r"(self\._runtime|self\._engine|self\._context|\bcontext)\.(\w+)", source):
        names.add(f"{CLASSES[holder]}.{attribute}")
    return names


def run(folder: Path, program: str, *arguments: str) -> str:
    """Run a program that sees the packages in a folder before those of this Python, and return what it prints."""
    paths = os.pathsep.join((str(folder), str(ROOT)))
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"exit code {run.returncode}: {run.stderr}"
    return run.stdout


def test_the_names_that_the_runner_uses_are_found_in_its_source() -> None:
    """Otherwise the next test would check nothing."""
    assert used_by_the_runner() == {
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.device_memory_size_v2",
        "ICudaEngine.num_aux_streams",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.nvtx_verbosity",
        "IExecutionContext.set_aux_streams",
        "IExecutionContext.set_device_memory",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address",
        "ProfilingVerbosity.NONE",
        "Runtime",
        "Runtime.DLA_core",
        "Runtime.deserialize_cuda_engine",
        "Runtime.engine_host_code_allowed",
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_lean_runtime_has_all_that_the_runner_uses(version: str, pytestconfig: pytest.Config) -> None:
    folder = installed(f"tensorrt-lean-cu13=={version}", pytestconfig)
    logger = {"ILogger.log", "ILogger.ERROR"}  # of engines/tensorrt/error_log.py
    # The full TensorRT of a version defines the same flags. Its lean runtime has them, too, although it builds nothing.
    flags = {"BuilderFlag.VERSION_COMPATIBLE", "BuilderFlag.EXCLUDE_LEAN_RUNTIME"}
    found = json.loads(run(folder, PROBE, json.dumps(sorted(used_by_the_runner() | logger | flags))))
    assert found == [version, [], False]


@pytest.mark.parametrize("version", VERSIONS)
def test_our_rules_are_those_that_the_library_states(version: str, pytestconfig: pytest.Config) -> None:
    """No engine can be loaded here, so the test reads the library's own words for the two rules."""
    folder = installed(f"tensorrt-lean-cu13=={version}", pytestconfig)
    # An engine with its runtime inside: the host code must be allowed.
    (library,) = (folder / "tensorrt_lean_libs").glob("libnvinfer_lean.so.*")
    refusal = b"Cannot deserialize engine with lean runtime since IRuntime::getEngineHostCodeAllowed() is false."
    assert refusal in library.read_bytes()
    # An engine without it: the version must be that of the builder.
    words = run(folder, "import tensorrt_lean; print(*tensorrt_lean.Runtime.load_runtime.__doc__.split())")
    assert "VERSION_COMPATIBLE and BuilderFlag.EXCLUDE_LEAN_RUNTIME both set and built with the same version" in words


@pytest.mark.parametrize("version", VERSIONS)
def test_engines_that_the_lean_runtime_cannot_run_are_refused_in_our_words(
    version: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Without the check in ``TensorRTNetwork``, the last one would crash the process."""
    folder = installed(f"tensorrt-lean-cu13=={version}", pytestconfig)
    engine = tmp_path / "model.engine"
    name, incompatible, older, separate, driver = run(folder, START, str(engine)).splitlines()
    assert name == f"tensorrt-lean {version}"
    assert (
        "expected an engine of build --version-compatible for tensorrt-lean, got one that only tensorrt" in incompatible
    )
    assert f"expected tensorrt-lean 99.0.0.1 or later, got {version}; install it with pip install" in older
    assert "expected tensorrt-lean 10.3.0.30, because the engine does not contain the lean runtime" in separate
    assert f"got {version}; install it with pip install 'tensorrt-lean-cu13==10.3.0.30'" in separate
    assert driver.startswith(f"{engine}: tensorrt-lean {version} cannot start; it says: createInferRuntime: ")
    assert driver.endswith("; update NVIDIA's driver, or install the library for the CUDA version of this driver")
