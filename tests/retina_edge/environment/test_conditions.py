"""Conditions of a measurement, read from fake tools and files of several kinds of machines."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from engines.core.processor import CPU_EXTENSIONS
from retina_edge.environment.conditions import (
    conditions,
    conditions_after,
    describe_machine,
    peak_memory,
    versions,
)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add_tool(folder: Path, name: str, script: str) -> None:
    """Write an executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def add_file(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_desktop_gpu_is_described_by_nvidia_smi(tools: Path, tmp_path: Path) -> None:
    add_tool(tools, "nvidia-smi", 'echo "$@" > "$0.asked"\necho "1980, 2100, 9501, 61.20, [N/A], 48, 512, 24564, P2"')
    sample = conditions(tmp_path)
    assert {name: sample[name] for name in sample if name != "load average"} == {
        "clocks.sm": 1980.0,
        "clocks.max.sm": 2100.0,
        "clocks.mem": 9501.0,
        "power.draw": 61.2,
        "temperature.gpu": 48.0,
        "memory.used": 512.0,
        "memory.total": 24564.0,
        "pstate": "P2",
    }
    assert "--query-gpu=clocks.sm,clocks.max.sm," in (tools / "nvidia-smi.asked").read_text()


UNKNOWN = "[Not Supported], 2100, [Unknown Error], [N/A], N/A, 48, [Not Supported], 24564, [Unknown Error]"


def test_unknown_values_of_nvidia_smi_are_skipped(tools: Path, tmp_path: Path) -> None:
    add_tool(tools, "nvidia-smi", f'echo "{UNKNOWN}"')
    sample = conditions(tmp_path)
    del sample["load average"]
    assert sample == {"clocks.max.sm": 2100, "temperature.gpu": 48, "memory.total": 24564}


@pytest.mark.parametrize(
    ("visible", "asked"),
    [
        (None, "0"),
        ("", "0"),
        ("2", "2"),
        (" 3,1", "3"),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,0", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
        ("-1", "0"),
        ("NoDevFiles", "0"),
    ],
)
def test_nvidia_smi_is_asked_for_the_first_visible_gpu(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, asked: str
) -> None:
    add_tool(tools, "nvidia-smi", 'echo "$@" > "$0.asked"')
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    conditions(tmp_path)
    assert (tools / "nvidia-smi.asked").read_text().rstrip().endswith(f"--id={asked}")


def test_conditions_are_sampled_once_during_the_block(tools: Path) -> None:
    add_tool(tools, "nvidia-smi", 'echo x >> "$0.asked"; echo "1980, 2100, 9501, 61.20, 450, 48, 512, 24564, P2"')
    with conditions_after(0.01) as sample:
        deadline = time.monotonic() + 20
        while not sample and time.monotonic() < deadline:
            time.sleep(0.01)
    assert sample["clocks.sm"] == 1980
    assert (tools / "nvidia-smi.asked").read_text() == "x\n"
    with conditions_after(60) as sample:
        pass
    assert sample == {}


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found", "echo"])
def test_a_driver_without_a_gpu_adds_nothing(tools: Path, tmp_path: Path, script: str) -> None:
    add_tool(tools, "nvidia-smi", script)
    assert set(conditions(tmp_path)) == {"load average"}


def test_a_system_without_a_load_average_reports_the_rest(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has no os.getloadavg on Windows."""
    monkeypatch.delattr(os, "getloadavg")
    add_tool(tools, "nvpmodel", 'echo "NV Power Mode: 15W"')
    assert conditions(tmp_path) == {"nvpmodel": "15W"}


@pytest.mark.parametrize("fixed", [True, False])
def test_a_jetson_reports_clock_power_mode_and_temperature(tools: Path, tmp_path: Path, *, fixed: bool) -> None:
    """The names are those of Orin with JetPack 6: ``17000000.gpu`` under devfreq."""
    add_tool(tools, "nvpmodel", 'echo "NV Power Mode: MAXN_SUPER"; echo 2')
    frequencies = {"min": 1020000000 if fixed else 306000000, "cur": 1020000000, "max": 1020000000}
    for name, value in frequencies.items():
        add_file(tmp_path, f"sys/class/devfreq/17000000.gpu/{name}_freq", f"{value}\n")
    for number, (zone, temperature) in enumerate({"cpu-thermal": 51000, "gpu-thermal": 48593}.items()):
        add_file(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", f"{zone}\n")
        add_file(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", f"{temperature}\n")
    add_file(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    sample = conditions(tmp_path)
    del sample["load average"]
    assert sample == {
        "governor": "schedutil",
        "nvpmodel": "MAXN_SUPER",
        "GPU clock": 1020.0,
        "jetson_clocks": fixed,
        "GPU temperature": 48.593,
    }


@pytest.mark.parametrize("names", [("gpu-gpc-0", "gpu-nvd-0"), ("gpu-aux-0", "gpu-gpc-0")])
def test_the_graphics_clock_is_the_gpu_clock_of_a_jetson(tools: Path, tmp_path: Path, names: tuple[str, ...]) -> None:  # noqa: ARG001
    """The names are those of Thor with JetPack 7. The order of the clocks does not matter."""
    for name in (*names, "bpmp"):
        mhz = 1575 if "gpc" in name else 1692
        for kind, value in {"min": 1575, "cur": mhz, "max": mhz}.items():
            add_file(tmp_path, f"sys/class/devfreq/{name}/{kind}_freq", f"{value}000000\n")
    sample = conditions(tmp_path)
    del sample["load average"]
    other = next(name for name in names if "gpc" not in name)
    assert sample == {
        "GPU clock": 1575.0,
        "jetson_clocks": True,
        "clock of gpu-gpc-0": 1575.0,
        f"clock of {other}": 1692.0,
    }


def test_this_machine_and_its_packages_are_described() -> None:
    assert describe_machine()["cores"] == os.cpu_count()
    assert describe_machine()["processor"]
    assert set(describe_machine().get("extensions", [])) <= set(CPU_EXTENSIONS)
    assert {"numpy", "onnxruntime", "retina-edge"} <= set(versions())


def test_peak_memory_grows_with_an_allocation() -> None:
    before = peak_memory()
    block = bytearray(300_000_000)
    for start in range(0, len(block), 4096):
        block[start] = 1
    assert peak_memory() > min(before + 100, 350)
