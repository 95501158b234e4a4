"""Tests that the committed PTX is the result of compiling the sources."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
from pathlib import Path

import pytest

from engines.plugins.compile import Nvrtc, clean, compile_entry, entries
from engines.plugins.launch import LEVELS
from engines.plugins.ptx_files import PTX, read_ptx

_NVIDIA = importlib.util.find_spec("nvidia")
_FOLDERS = _NVIDIA.submodule_search_locations if _NVIDIA else None
PTXAS = [file for folder in _FOLDERS or () for file in Path(folder).glob("cuda_nvcc/bin/ptxas")]


@functools.cache
def compiled(file: str, macros: tuple[str, ...]) -> bytes:
    return compile_entry(Nvrtc(), file, macros)[0]


@pytest.mark.parametrize(("entry", "file", "macros"), list(entries()), ids=[entry for entry, *_ in entries()])
def test_compiling_again_gives_the_same_ptx(entry: str, file: str, macros: tuple[str, ...]) -> None:
    ptx = read_ptx(entry)
    assert clean(compiled(file, macros)) == ptx
    assert f".visible .entry {entry}(".encode() in ptx
    # For GPUs since Turing, and for the driver of JetPack 6.
    assert b"\n.version 7.0\n" in ptx
    assert b"\n.target sm_75" in ptx


@pytest.mark.skipif(not PTXAS, reason="needs ptxas, from the package nvidia-cuda-nvcc-cu12")
@pytest.mark.parametrize(("entry", "file", "macros"), list(entries()), ids=[entry for entry, *_ in entries()])
def test_the_older_isa_gives_the_same_machine_code(
    entry: str, file: str, macros: tuple[str, ...], tmp_path: Path
) -> None:
    """NVIDIA's assembler accepts PTX that declares the older ISA, and makes the same machine code as for the newest."""
    newest = compiled(file, macros).rstrip(b"\0")
    assert newest != read_ptx(entry)
    codes = []
    for text in (newest, read_ptx(entry)):
        (tmp_path / "kernel.ptx").write_bytes(text)
        subprocess.run([PTXAS[0], "-arch=sm_87", "kernel.ptx", "-o", "kernel.cubin"], cwd=tmp_path, check=True)
        codes.append((tmp_path / "kernel.cubin").read_bytes())
    assert codes[0] == codes[1]


def test_there_is_one_ptx_file_for_each_kernel() -> None:
    names = {file.stem for file in PTX.iterdir()}
    assert names == {entry for entry, _, _ in entries()}
    assert len(names) == 4 * len(LEVELS) + 2
    with pytest.raises(ValueError, match="expected one of ptx/"):
        read_ptx("filter_f64_5")
