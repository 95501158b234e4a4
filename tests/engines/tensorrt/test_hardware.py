"""Tests of the tables of GPUs and of DLA, with the words of NVIDIA's own refusals and release notes."""

from __future__ import annotations

import re

import pytest
import tensorrt_rtx

from engines.core.machine import Machine
from engines.tensorrt.build_options import TARGETS
from engines.tensorrt.hardware import RTX_SMS, rtx_runs_on, why_no_dla, why_no_rtx

ORIN, THOR = "Orin", "NVIDIA Thor"
# What TensorRT-RTX 1.7.1.116 says about a portable engine on an H200.
REFUSAL = "Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0"


def test_the_table_is_that_of_the_refusal_and_of_the_builder() -> None:
    named = {int(major + minor) for major, minor in re.findall(r" (\d+)\.(\d)", REFUSAL)}
    assert named | {75} == set(RTX_SMS)
    builder = {name.lower() for name in dir(tensorrt_rtx.ComputeCapability) if re.fullmatch(r"SM\d+", name)}
    assert builder == set(TARGETS)


@pytest.mark.parametrize("sm", [0, 70, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121, 122])
def test_tensorrt_rtx_runs_on_the_gpus_of_its_table(sm: int) -> None:
    runs = sm in (75, 80, 86, 89, 120, 121, 122)
    assert rtx_runs_on(sm) is runs
    machine = Machine("a GPU", f"{sm // 10}.{sm % 10}")
    assert why_no_rtx(machine).endswith("; use TensorRT on this GPU") is not runs


@pytest.mark.parametrize(
    ("version", "gpu", "jetpack", "has_dla"),
    [
        ("10.3.0.30", ORIN, "JetPack 6.2.1+b38", True),
        ("10.7.0.23", ORIN, "JetPack 6.2.1+b38", True),
        ("10.8.0.43", ORIN, "JetPack 6.2.1+b38", False),
        ("10.13.3.9", ORIN, "JetPack 7.2", False),
        ("10.16.1.11", ORIN, "JetPack 7.2.1", False),
        ("11.4.0", ORIN, "JetPack 7.2.2", False),
        ("11.4.1", ORIN, "JetPack 7.2.1", False),
        ("11.4.1", ORIN, "JetPack 7.2.2-b4", True),
        ("11.5.0", ORIN, "JetPack 8.0", True),
        ("11.4.1", ORIN, "L4T 39.2", True),
        ("11.4.1", THOR, "JetPack 7.2.2", False),
        ("10.7.0.23", THOR, "JetPack 7.0", False),
    ],
)
def test_dla_depends_on_tensorrt_and_jetpack(version: str, gpu: str, jetpack: str, *, has_dla: bool) -> None:
    reason = why_no_dla(version, Machine(gpu, "8.7", "580.0", jetpack))
    assert (reason == "") is has_dla
    if not has_dla:
        assert f"got TensorRT {version} on {gpu}, {jetpack}; TensorRT has DLA up to 10.7, and again from" in reason
        assert "from 11.4.1 on AGX Orin with JetPack 7.2.2 or newer; Thor has none at all; build without dla" in reason
