"""Tests of the description of the processor, with texts of several processors."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from engines.core import processor
from engines.core.processor import cpu_extensions, cpu_model, usable_cores

X86 = "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: another\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp bf16\nCPU part\t: 0xd42\n"


def set_cpuinfo(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Replace the content of /proc/cpuinfo; None for a system without this file."""

    def read(path: Path) -> str:
        assert path == Path("/proc/cpuinfo")
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx avx2 avx512_vnni avx512f\n", ["avx2", "avx512f", "avx512_vnni"]),
        ("Features\t: fp asimd asimddp bf16\n", ["asimddp", "bf16"]),
        ("vendor: unknown\n", []),
        (None, []),
    ],
)
def test_processor_extensions_come_from_cpuinfo(
    line: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cpuinfo(monkeypatch, line)
    assert cpu_extensions() == expected


def test_the_name_of_the_processor_is_that_of_the_first_core(monkeypatch: pytest.MonkeyPatch) -> None:
    set_cpuinfo(monkeypatch, X86)
    assert cpu_model() == "AMD EPYC 9B14"


@pytest.mark.parametrize("text", [ARM, None])
@pytest.mark.parametrize(("processor", "expected"), [("Apple M2", "Apple M2"), ("", "aarch64")])
def test_a_processor_without_a_name_in_cpuinfo_is_named_by_python(
    monkeypatch: pytest.MonkeyPatch, text: str | None, processor: str, expected: str
) -> None:
    set_cpuinfo(monkeypatch, text)
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert cpu_model() == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("6400000 100000", 8), ("", 8), (None, 8)],
)
def test_usable_cores_keep_to_the_quota_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int
) -> None:
    path = tmp_path / "cpu.max"
    if quota is not None:
        path.write_text(quota)
    monkeypatch.setattr(processor, "_QUOTA", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    assert usable_cores() == expected
