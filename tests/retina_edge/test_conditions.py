"""What stands beside a figure, read from the tools and files of machines that the tests make up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retina_edge.measurement.conditions import conditions, machine, peak_memory, versions


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which commands are looked for."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def add_tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def add_file(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_desktop_gpu(tools: Path, tmp_path: Path) -> None:
    add_tool(tools, "nvidia-smi", 'echo "$@" > "$0.asked"\necho "1980, 2100, 9501, 61.20, [N/A], 48, 512, 24564, P2"')
    found = conditions(tmp_path)
    assert {name: found[name] for name in found if name != "load average"} == {
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


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found", "echo"])
def test_a_driver_without_a_gpu(tools: Path, tmp_path: Path, script: str) -> None:
    add_tool(tools, "nvidia-smi", script)
    assert set(conditions(tmp_path)) == {"load average"}


@pytest.mark.parametrize("fixed", [True, False])
def test_a_jetson(tools: Path, tmp_path: Path, *, fixed: bool) -> None:
    """Orin's names: JetPack 6, ``17000000.gpu`` under devfreq."""
    add_tool(tools, "nvpmodel", 'echo "NV Power Mode: MAXN_SUPER"; echo 2')
    frequencies = {"min": 1020000000 if fixed else 306000000, "cur": 1020000000, "max": 1020000000}
    for name, value in frequencies.items():
        add_file(tmp_path, f"sys/class/devfreq/17000000.gpu/{name}_freq", f"{value}\n")
    for number, (zone, temperature) in enumerate({"cpu-thermal": 51000, "gpu-thermal": 48593}.items()):
        add_file(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", f"{zone}\n")
        add_file(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", f"{temperature}\n")
    add_file(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    found = conditions(tmp_path)
    del found["load average"]
    assert found == {
        "governor": "schedutil",
        "nvpmodel": "MAXN_SUPER",
        "GPU clock": 1020.0,
        "jetson_clocks": fixed,
        "GPU temperature": 48.593,
    }


def test_this_machine_and_what_is_installed() -> None:
    assert machine()["cores"] == os.cpu_count()
    assert machine()["processor"]
    assert {"numpy", "onnxruntime", "retina-edge"} <= set(versions())


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = bytearray(300_000_000)
    for start in range(0, len(held), 4096):
        held[start] = 1
    assert peak_memory() > min(before + 100, 350)
