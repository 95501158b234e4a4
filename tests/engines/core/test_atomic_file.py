"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engines.core.atomic_file import atomic_file


def test_the_file_appears_at_the_end_in_new_folders_with_the_umasks_mode(tmp_path: Path) -> None:
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
def test_after_an_error_the_old_file_is_as_it_was_and_nothing_else_is_left(
    tmp_path: Path, error: type[BaseException]
) -> None:
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


def test_a_folder_in_the_way_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "b.bin").mkdir()
    with pytest.raises(IsADirectoryError, match=r"b\.bin"), atomic_file(tmp_path / "b.bin"):
        pytest.fail("the work had begun")
    assert not list((tmp_path / "b.bin").iterdir())
