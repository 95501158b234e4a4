"""The committed PTX is what the sources compile to."""

from __future__ import annotations

import pytest

from engines.plugins.compile import Nvrtc, clean, compile_entry, entries
from engines.plugins.launch import LEVELS
from engines.plugins.ptx_files import PTX, read_ptx


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    return Nvrtc()


@pytest.mark.parametrize(("entry", "file", "macros"), list(entries()), ids=[entry for entry, *_ in entries()])
def test_compiling_again_gives_the_same(nvrtc: Nvrtc, entry: str, file: str, macros: tuple[str, ...]) -> None:
    ptx = read_ptx(entry)
    assert clean(compile_entry(nvrtc, file, macros)[0]) == ptx
    assert f".visible .entry {entry}(".encode() in ptx
    # An ISA that TensorRT's ahead-of-time plugins take, for GPUs from Turing on.
    assert b"\n.version 8." in ptx
    assert b"\n.target sm_75" in ptx


def test_nothing_else_is_there() -> None:
    names = {file.stem for file in PTX.iterdir()}
    assert names == {entry for entry, _, _ in entries()}
    assert len(names) == 4 * len(LEVELS) + 2
    with pytest.raises(ValueError, match="expected one of ptx/"):
        read_ptx("filter_f64_5")
