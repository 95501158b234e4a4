"""Tests of the runner's calls to the real pycuda and cuda-bindings, over a made-up CUDA driver.

``test_executor.py`` tests the results of the calls, on stand-ins. This module tests that the libraries accept the
calls: names, types of arguments, and when and where resources must be freed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.core.machine import this_machine

SPEC = importlib.util.find_spec("pycuda")
HERE = Path(__file__).parent / "made_up_driver"
ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.skipif(SPEC is None, reason="needs pycuda, which needs the CUDA toolkit to be installed"),
    pytest.mark.skipif(bool(this_machine().gpu), reason="needs a machine without an NVIDIA driver"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to compile the made-up driver"),
]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a libcuda and a libcurand that have every function that pycuda imports; unused ones do nothing."""
    assert SPEC is not None
    assert SPEC.origin is not None
    folder = tmp_path_factory.mktemp("driver")
    (extension,) = Path(SPEC.origin).parent.glob("_driver*.so")
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(extension)], capture_output=True, text=True, check=True
    )
    wanted = set(re.findall(r" U (cu[A-Z]\w+|curand\w+)", listing.stdout))
    source = (HERE / "driver.cpp").read_text()
    missing = sorted(wanted - set(re.findall(r"^CALL (cu\w+)\(", source, flags=re.M)))
    assert len(wanted) - len(missing) > 25
    stubs = "\n".join(f"CALL {name}() {{ return 0; }}" for name in missing)
    (folder / "driver.cpp").write_text(f"{source}\n{stubs}\n")
    command = ["g++", "-shared", "-fPIC", "-w", "driver.cpp", "-o", "libcuda.so.1", "-Wl,-soname,libcuda.so.1", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    (folder / "libcurand.so.10").symlink_to("libcuda.so.1")
    return folder


@pytest.mark.parametrize("integrated", [False, True])
def test_pycuda_and_cuda_bindings_accept_every_call(libraries: Path, *, integrated: bool) -> None:
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": paths}
    run = subprocess.run(
        # pycuda warns if it cannot free a resource.
        [sys.executable, "-W", "error", "-m", "tests.engines.runner.made_up_driver.session"],
        cwd=ROOT,
        env={**environment, **({"INTEGRATED": "1"} if integrated else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr.strip()) == (0, "ends", "")
