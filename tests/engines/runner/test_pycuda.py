"""The runner's calls to pycuda and cuda-bindings, as those take them, over a driver that is made up.

``test_executor.py`` says what comes of the calls. Here it is that they are calls of those libraries: names, types of
arguments, what has to be freed where and when.
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
    pytest.mark.skipif(bool(this_machine().gpu), reason="there is a driver; test_gpu.py runs on that"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to make a driver up"),
]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libcuda and libcurand with every function that pycuda is linked to; those that nothing uses do nothing."""
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
def test_everything_is_called_as_pycuda_has_it(libraries: Path, *, integrated: bool) -> None:
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": paths}
    run = subprocess.run(
        # pycuda warns where something cannot be freed.
        [sys.executable, "-W", "error", "-m", "tests.engines.runner.made_up_driver.session"],
        cwd=ROOT,
        env={**environment, **({"INTEGRATED": "1"} if integrated else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr.strip()) == (0, "ends", "")
