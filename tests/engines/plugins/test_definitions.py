"""The plugins against TensorRT's own plugin layer, from three published wheels; the library itself is a stand-in.

What this cannot show: that TensorRT builds the engine, takes the PTX, and packs the arguments as it says.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engines.backend import Backend
from engines.plugins.definitions import plugin_name, register, why_no_plugins
from engines.plugins.launch import Geometry, plan
from engines.plugins.ptx_files import read_ptx

# Package, version, sha256 of its wheel for CPython 3.11 on x86_64 Linux. The part that is used is the same in all.
WHEELS = (
    ("tensorrt-cu12-bindings", "10.9.0.34", "50c78fd66dbb515b135d5f4fe28790f2eda119756950b51a6a45a77736a14b47"),
    ("tensorrt-cu13-bindings", "10.16.1.11", "f986d47980d042cc126506a9b84586e55ad13737a7a46826fe45457c04d66294"),
    ("tensorrt-cu13-bindings", "11.4.0.106", "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc"),
)
COCO = Geometry(91, 9, ((100, 100), (50, 50), (25, 25), (13, 13), (7, 7)), 1000, 300, half=True)
TWO_LEVELS = Geometry(1, 3, ((20, 28), (10, 14)), 64, 16, half=False)


def plugin_package(cache: Path, package: str, version: str, digest: str) -> Path:
    """The folder ``plugin`` of a wheel, downloaded once."""
    folder = cache / version
    if not (folder / "plugin" / "__init__.py").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requirements.txt").write_text(f"{package}=={version} --hash=sha256:{digest}\n")
        machine = ["--python-version=3.11", "--platform=manylinux_2_28_x86_64", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *machine]
        run = subprocess.run(
            [*command, "-r", "requirements.txt", "-d", "."], cwd=folder, capture_output=True, text=True, check=False
        )
        wheels = list(folder.glob("*.whl"))
        if run.returncode or not wheels:
            if "DO NOT MATCH THE HASHES" in run.stderr:
                pytest.fail(run.stderr)
            pytest.skip(f"needs {package} {version} from the package index: {run.stderr.strip().splitlines()[-1:]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in archive.namelist():
                parent, _, rest = name.partition("/plugin/")
                if rest.endswith(".py") and "/" not in parent + rest:
                    (folder / "plugin").mkdir(exist_ok=True)
                    (folder / "plugin" / rest).write_bytes(archive.read(name))
        wheels[0].unlink()
    return folder / "plugin"


@pytest.mark.parametrize(("geometry", "batch"), [(COCO, 1), (COCO, 4), (TWO_LEVELS, 2)])
@pytest.mark.parametrize(("package", "version", "digest"), WHEELS, ids=[version for _, version, _ in WHEELS])
def test_tensorrt_is_told_the_plan(
    pytestconfig: pytest.Config, package: str, version: str, digest: str, geometry: Geometry, batch: int
) -> None:
    assert pytestconfig.cache is not None
    folder = plugin_package(pytestconfig.cache.mkdir("tensorrt-plugin"), package, version, digest)
    arguments = [str(folder), json.dumps(dataclasses.asdict(geometry)), str(batch)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.engines.plugins.tensorrt_stand_in", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    types = {"int32": "INT32", "float32": "FLOAT", "float16": "HALF"}
    launches = plan(geometry, batch)
    tensors = geometry.inputs(batch) | {output.name: output for launch in launches for output in launch.outputs}
    for launch, found in zip(launches, told, strict=True):
        outputs = [[list(output.shape), types[output.dtype]] for output in launch.outputs]
        inputs = [types[tensors[name].dtype] for name in launch.inputs]
        assert found == {
            "entry": launch.entry,
            "ptx": hashlib.sha256(read_ptx(launch.entry)).hexdigest(),
            "grid": [*launch.grid, 1],
            "block": [launch.block, 1, 1],
            "shared": 0,
            "inputs": inputs,
            "integers": list(launch.integers),
            "outputs": outputs,
            "formats": [[kind, "LINEAR"] for kind in (*inputs, *(kind for _, kind in outputs))],
            "fields": 0,
        }


def test_a_name_is_one_launch() -> None:
    names = {
        plugin_name(launch)
        for geometry in (COCO, dataclasses.replace(COCO, num_classes=90), dataclasses.replace(COCO, half=False))
        for batch in (1, 2)
        for launch in plan(geometry, batch)
    }
    # NMS is the same for all of one batch size.
    assert len(names) == 3 * 2 * 2 + 2
    assert all(name.isidentifier() for name in names)
    assert plugin_name(plan(COCO, 1)[0]) == plugin_name(plan(COCO, 1)[0])


def test_nothing_to_register_touches_nothing() -> None:
    register(object(), ())


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("tensorrt", "10.9.0.34", None),
        ("tensorrt", "10.15.1", None),
        ("tensorrt", "11.4.0.106", None),
        ("tensorrt", "10.8.0.43", "10.9 or newer, found 10.8.0.43"),
        ("tensorrt", "10.14.1.48.post1", "10.14 are broken"),
        ("tensorrt-rtx", "1.7.1.116", "tensorrt-rtx has no plugins"),
    ],
)
def test_which_tensorrt_can(name: str, version: str, reason: str | None) -> None:
    module: Any = None
    found = why_no_plugins(Backend(name, module, version))
    assert (found is None) if reason is None else (found is not None and reason in found)
