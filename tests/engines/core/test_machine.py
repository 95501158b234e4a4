"""Tests of the description of this machine, with texts and tools of several kinds of machines."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from engines.core import machine
from engines.core.machine import Machine, this_machine

CALLS = ("cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute")
# First lines of /proc/driver/nvidia/version: of the closed driver, of the open driver, and of JetPack 6 on Orin.
CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  12.3.0\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)\n"
ORIN = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n"
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"


class Library:
    """A stand-in for libcuda of a machine with two GPUs: an Orin and an RTX 4090."""

    def cuInit(self, flags: int) -> int:
        return flags

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = 100 + number
        return 0 if number < 2 else 101  # CUDA_ERROR_INVALID_DEVICE

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = {100: b"Orin", 101: b"NVIDIA GeForce RTX 4090"}[device.value][: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = {(75, 100): 8, (76, 100): 7, (75, 101): 8, (76, 101): 9}[attribute, device.value]
        return 0


@pytest.fixture(autouse=True)
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the files of NVIDIA's driver and of a Jetson, and without tools."""
    monkeypatch.setattr(machine, "_KERNEL_DRIVER", tmp_path / "version")
    monkeypatch.setattr(machine, "_TEGRA_RELEASE", tmp_path / "nv_tegra_release")
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))


def install_driver(monkeypatch: pytest.MonkeyPatch, *, fails: str = "") -> None:
    """Install a driver with two GPUs; the call named ``fails`` returns an error."""
    library = Library()
    if fails:
        setattr(library, fails, lambda *_: 3)  # CUDA_ERROR_NOT_INITIALIZED
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libcuda.so.1": library}[name])


def install_dpkg_query(tmp_path: Path, script: str) -> None:
    """Install a package manager that runs a shell script if it is asked for the version of JetPack."""
    tool = tmp_path / "tools" / "dpkg-query"
    tool.parent.mkdir()
    question = "--show --showformat=${Version} nvidia-jetpack"
    tool.write_text(f"#!/bin/sh\n[ \"$*\" = '{question}' ] || exit 2\n{script}\n")
    tool.chmod(0o755)


def test_this_machine_describes_a_gpu_completely_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    here = this_machine()
    assert bool(here.gpu) == bool(here.compute_capability) == bool(here.driver) == (here.sm > 0)


def test_the_gpu_of_a_number_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch)
    assert this_machine() == Machine("Orin", "8.7", "CUDA 12.6")
    assert this_machine(1) == Machine("NVIDIA GeForce RTX 4090", "8.9", "CUDA 12.6")
    assert this_machine(2) == Machine()


@pytest.mark.parametrize("call", CALLS)
def test_a_driver_that_fails_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (tmp_path / "version").write_text(CLOSED)
    install_driver(monkeypatch, fails=call)
    assert this_machine() == Machine()


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert this_machine() == Machine()
    assert this_machine().sm == 0


@pytest.mark.parametrize(
    ("text", "driver"),
    [(CLOSED, "535.183.01"), (OPEN, "580.95.05"), (ORIN, "540.4.0"), ("NVRM version: unknown\n", "CUDA 12.6")],
)
def test_the_version_of_the_kernel_driver_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, driver: str
) -> None:
    install_driver(monkeypatch)
    (tmp_path / "version").write_text(text)
    assert this_machine().driver == driver


@pytest.mark.parametrize(
    ("dpkg_query", "release", "jetpack"),
    [
        ("echo 6.2+b77", RELEASE, "JetPack 6.2+b77"),
        ("echo 'no packages found matching nvidia-jetpack' >&2; exit 1", RELEASE, "L4T 36.4.3"),
        ("echo", RELEASE, "L4T 36.4.3"),  # a package that dpkg knows, but that is not installed
        (None, RELEASE, "L4T 36.4.3"),
        (None, "a release of another form\n", "L4T"),
        ("echo 6.2+b77", None, ""),
    ],
)
def test_a_jetson_is_described_by_its_jetpack_or_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dpkg_query: str | None, release: str | None, jetpack: str
) -> None:
    install_driver(monkeypatch)
    if dpkg_query is not None:
        install_dpkg_query(tmp_path, dpkg_query)
    if release is not None:
        (tmp_path / "nv_tegra_release").write_text(release)
    assert this_machine() == Machine("Orin", "8.7", "CUDA 12.6", jetpack)
