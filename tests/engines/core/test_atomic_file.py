"""Tests of atomic_file: a file is written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engines.core.atomic_file import atomic_file


def test_the_file_appears_at_the_end_in_new_folders_with_the_mode_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    previous = os.umask(0o027)
    try:
        with atomic_file(path) as file:
            file.write(b"new")
            assert not path.exists()
    finally:
        os.umask(previous)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "b.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_at_the_path_is_refused_before_the_block_runs(tmp_path: Path) -> None:
    (tmp_path / "b.bin").mkdir()
    with pytest.raises(IsADirectoryError, match=r"b\.bin"), atomic_file(tmp_path / "b.bin"):
        pytest.fail("the block must not run")
    assert not list((tmp_path / "b.bin").iterdir())
