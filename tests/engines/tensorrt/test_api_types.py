"""A mypy check of every call of TensorRT's API against published type stubs.

The published stubs do not parse, so the test fixes them first. For that reason, ``make check`` cannot depend on them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.published import Wheel, unpacked

ROOT = Path(__file__).parents[3]
STUBS = Wheel("tensorrt-stubs", "10.13.0.35.1", "749a36a1f825db0800a82d0dabbf7ef49f3a9edc1e794c9545fb94a551613fea")
# Errors of the stubs: sizes can in fact be iterated, and can be passed as tuples.
WRONG_STUBS = (
    r"engines/tensorrt/engine_network\.py:\d+: error: Argument 1 to \"tuple\" has incompatible type \"Dims\"",
    r"engines/tensorrt/builder\.py:\d+: error: Argument 2 to \"set_shape\" .*expected \"Dims\"",
    r"engines/tensorrt/builder\.py:\d+: error: No overload variant of \"list\" matches argument type \"Dims\"",
)
PROBE = """
from engines.tensorrt.backend import Backend
import tensorrt

def probe(backend: Backend, config: tensorrt.IBuilderConfig) -> None:
    backend.module.Bilder
    backend.module.BuilderFlag.INT88
    config.optimization_level = 3
"""
CAUGHT = ('no attribute "Bilder"', 'no attribute "INT88"', 'no attribute "optimization_level"')


def test_every_call_exists_in_the_api(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    stubs = tmp_path / "stubs"
    shutil.copytree(unpacked(STUBS, pytestconfig), stubs)
    bindings = stubs / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"\bin: ", "inputs: ", bindings.read_text())
    bindings.write_text(text.replace("= None, channel_axis: int)", "= None, channel_axis: int = 1)"))
    (tmp_path / "probe.py").write_text(PROBE)
    settings = (ROOT / "pyproject.toml").read_text()
    settings = settings.replace('"tensorrt.*", ', "").replace("packages = [", "exclude = [")
    (tmp_path / "pyproject.toml").write_text(settings)
    command = [sys.executable, "-m", "mypy", "--config-file", str(tmp_path / "pyproject.toml"), "--cache-dir"]
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "engines").rglob("*.py"))]
    run = subprocess.run(
        [*command, str(tmp_path / "cache"), "--no-warn-unused-ignores", *files, str(tmp_path / "probe.py")],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not run.stderr, run.stderr
    errors = [line for line in run.stdout.splitlines() if ": error: " in line]
    ours = [line for line in errors if line.startswith("engines/")]
    assert not [line for line in ours if not any(re.match(known, line) for known in WRONG_STUBS)]
    probed = [line for line in errors if "probe.py" in line]
    # The errors in the probe prove that mypy has read the stubs.
    assert len(probed) == len(CAUGHT), probed
    for line, message in zip(probed, CAUGHT, strict=True):
        assert message in line
