"""Tests of the plugins with TensorRT's own plugin layer, from three published wheels; a stand-in replaces the library.

The tests cannot show that TensorRT builds the engine, accepts the PTX, and packs the arguments as documented.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest

from engines.plugins.launch import Geometry, postprocess_launches
from engines.plugins.ptx_files import read_ptx
from engines.tensorrt.backend import Backend
from engines.tensorrt.plugin_definitions import plugin_name, register, why_no_plugins
from tests.published import Wheel, unpacked

# Wheels for CPython 3.11 on x86_64 Linux. The part that is used is the same in the wheels of all platforms.
WHEELS = (
    Wheel("tensorrt-cu12-bindings", "10.9.0.34", "50c78fd66dbb515b135d5f4fe28790f2eda119756950b51a6a45a77736a14b47"),
    Wheel("tensorrt-cu13-bindings", "10.16.1.11", "f986d47980d042cc126506a9b84586e55ad13737a7a46826fe45457c04d66294"),
    Wheel("tensorrt-cu13-bindings", "11.4.0.106", "d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc"),
)
COCO = Geometry(91, 9, ((100, 100), (50, 50), (25, 25), (13, 13), (7, 7)), 1000, 300, half=True)
TWO_LEVELS = Geometry(1, 3, ((20, 28), (10, 14)), 64, 16, half=False)
BUILDS = ((COCO, 1), (COCO, 4), (TWO_LEVELS, 2))
# Quick tests: the newest wheel with every build, and each older wheel with one build. Slow tests: the other builds.
QUICK = {(WHEELS[0], COCO, 4), (WHEELS[1], TWO_LEVELS, 2), *((WHEELS[2], *build) for build in BUILDS)}
CASES = [
    pytest.param(*case, id=f"{case[0].version}-{name}", marks=() if case in QUICK else pytest.mark.slow)
    for wheel in WHEELS
    for case, name in zip(((wheel, *build) for build in BUILDS), ("coco", "coco of 4", "two levels of 2"), strict=True)
]


@pytest.mark.parametrize(("wheel", "geometry", "batch"), CASES)
def test_tensorrt_receives_every_launch(
    pytestconfig: pytest.Config, wheel: Wheel, geometry: Geometry, batch: int
) -> None:
    folder = next(unpacked(wheel, pytestconfig).glob("tensorrt*/plugin"))
    arguments = [str(folder), json.dumps(dataclasses.asdict(geometry)), str(batch)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.engines.plugins.tensorrt_stand_in", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    received = json.loads(run.stdout.splitlines()[-1])
    types = {"int32": "INT32", "float32": "FLOAT", "float16": "HALF"}
    launches = postprocess_launches(geometry, batch)
    tensors = geometry.inputs(batch) | {output.name: output for launch in launches for output in launch.outputs}
    for launch, plugin in zip(launches, received, strict=True):
        outputs = [[list(output.shape), types[output.dtype]] for output in launch.outputs]
        inputs = [types[tensors[name].dtype] for name in launch.inputs]
        assert plugin == {
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


def test_different_launches_have_different_plugin_names() -> None:
    names = {
        plugin_name(launch)
        for geometry in (COCO, dataclasses.replace(COCO, num_classes=90), dataclasses.replace(COCO, half=False))
        for batch in (1, 2)
        for launch in postprocess_launches(geometry, batch)
    }
    # For each batch size, all geometries share one NMS launch.
    assert len(names) == 3 * 2 * 2 + 2
    assert all(name.isidentifier() for name in names)
    assert plugin_name(postprocess_launches(COCO, 1)[0]) == plugin_name(postprocess_launches(COCO, 1)[0])


def test_registering_no_launches_does_not_use_tensorrt() -> None:
    nothing: Any = object()
    register(nothing, ())


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("tensorrt", "10.9.0.34", None),
        ("tensorrt", "10.15.1", None),
        ("tensorrt", "11.4.0.106", None),
        ("tensorrt", "10.8.0.43", "10.9 or newer for plugins, got 10.8.0.43"),
        ("tensorrt", "10.14.1.48.post1", "broken in TensorRT 10.14"),
        ("tensorrt-rtx", "1.7.1.116", "tensorrt-rtx does not support plugins"),
    ],
)
def test_the_versions_that_support_plugins(name: str, version: str, reason: str | None) -> None:
    module: Any = None
    answer = why_no_plugins(Backend(name, module, version))
    assert (answer is None) if reason is None else (answer is not None and reason in answer)
