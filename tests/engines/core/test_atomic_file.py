"""Tests of atomic_file: a file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
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


def test_a_link_under_the_name_of_the_temporary_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda _bytes: "0" * 16)  # as if the name could be guessed
    (tmp_path / f".b.bin.{os.getpid()}-{'0' * 16}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "b.bin") as file:
        file.write(b"new")
    assert victim.read_text() == "precious"


def test_the_names_of_temporary_files_cannot_be_guessed(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with atomic_file(tmp_path / ("long" * 60)):
            names.add(next(tmp_path.glob(".*.tmp")).name)
    assert len(names) == 20


def test_a_link_at_the_path_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "target").read_text() == "precious"
    assert (tmp_path / "link").read_bytes() == b"new"


def test_the_next_run_removes_what_a_killed_process_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, signal, sys\nfrom engines.core.atomic_file import atomic_file\n"
        "with atomic_file(sys.argv[1]) as file:\n    file.write(b'half')\n    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "b.bin"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr("engines.core.file_lock.LEFT_SECONDS", 0.0)
    other = tmp_path / ".c.bin.1-0123456789abcdef.tmp"  # of another file
    other.touch()
    with atomic_file(path) as first:
        assert not left.exists()
        with atomic_file(path) as second:  # another thread or process writes the same file
            second.write(b"second")
        first.write(b"first")
    assert path.read_bytes() == b"first"
    assert sorted(tmp_path.iterdir()) == sorted([other, path])


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"b\.bin") as caught, atomic_file(tmp_path / "b.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_file(pipe) as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
