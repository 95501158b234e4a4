"""Platforms are recognized by machine and packages, and their commands exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from engines.core.machine import Machine
from retina_edge.environment.platforms import (
    CPU,
    CUDA_PATHS,
    JETPACK_6,
    JETPACK_7,
    LEAN,
    OLD_JETSON,
    PLATFORMS,
    RTX,
    TENSORRT,
    Platform,
    recognize,
)

ROOT = Path(__file__).parents[3]
ORIN, DESKTOP = ("Orin", "8.7", "540.4.0"), Machine("NVIDIA GeForce RTX 4090", "8.9", "580.95", "")
SERVER = Machine("NVIDIA H200", "9.0", "580.159.04")


@pytest.mark.parametrize(
    ("jetpack", "expected"),
    [
        ("JetPack 5.1.2-b104", OLD_JETSON),
        ("JetPack 6.0+b106", OLD_JETSON),
        ("JetPack 6.1+b123", JETPACK_6),
        ("JetPack 6.2.1+b38", JETPACK_6),
        ("JetPack 7.0-b128", JETPACK_7),
        ("JetPack 7.2", JETPACK_7),
        ("L4T 35.4.1", OLD_JETSON),
        ("L4T 36.3.0", OLD_JETSON),
        ("L4T 36.4.3", JETPACK_6),
        ("L4T 38.2.0", JETPACK_7),
        ("L4T", JETPACK_6),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_a_jetson_is_recognized_by_its_jetpack(jetpack: str, expected: Platform, *, installed: bool) -> None:
    found = recognize(Machine(*ORIN, jetpack), tensorrt=installed, tensorrt_rtx=False, tensorrt_lean=installed)
    assert found is expected


@pytest.mark.parametrize(
    ("machine", "tensorrt", "rtx", "lean", "expected"),
    [
        (DESKTOP, True, True, True, TENSORRT),
        (DESKTOP, False, True, True, RTX),
        (DESKTOP, False, False, True, LEAN),
        (DESKTOP, False, False, False, TENSORRT),
        (SERVER, False, True, False, TENSORRT),
        (SERVER, False, True, True, LEAN),
        (Machine(), True, True, True, CPU),
        (Machine(), False, False, False, CPU),
    ],
)
def test_other_machines_are_recognized_by_gpu_and_packages(
    machine: Machine, expected: Platform, *, tensorrt: bool, rtx: bool, lean: bool
) -> None:
    assert recognize(machine, tensorrt=tensorrt, tensorrt_rtx=rtx, tensorrt_lean=lean) is expected


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_commands_that_compile_pycuda_set_the_path_of_cuda(platform: Platform) -> None:
    """The package index has pycuda only as source."""
    extras = dict(re.findall(r"^([\w-]+) = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), flags=re.M))
    (install,) = [command for command in platform.commands if "pip install" in command]
    (extra,) = re.findall(r"retina-edge\[([\w-]+)\]", install) or [None]
    needs_pycuda = "pycuda" in install or (extra is not None and "pycuda" in extras[extra])
    assert install.startswith(f"{CUDA_PATHS} && pip install ") is needs_pycuda
    assert bool(re.search(r"g\+\+|C\+\+ compiler", platform.commands[0])) is needs_pycuda
    assert (platform is CPU) is not needs_pycuda


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_commands_name_existing_extras_and_arguments(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extras are in pyproject.toml, and the verbs accept the arguments."""
    extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.M)
    parsed: list[str] = []

    def stop(parser: argparse.ArgumentParser, arguments: list[str], _namespace: object = None) -> argparse.Namespace:
        argparse.ArgumentParser.parse_known_args(parser, arguments)
        parsed.append(parser.prog)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    for command in " && ".join(platform.commands).split(" && "):
        for extra in re.findall(r"retina-edge\[([\w-]+)\]", command):
            assert extra in extras
        if command.startswith("retina-edge "):
            _, verb, *arguments = shlex.split(command)
            with pytest.raises(SystemExit):
                importlib.import_module(f"retina_edge.{verb}").main(arguments)
    assert "retina-edge detect" in parsed
