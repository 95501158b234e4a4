"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from engines.core.file_lock import claim, is_left

# Errors of a disk, whose messages do not name the file.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# Characters of the target's name in the name of its temporary file; file systems limit a name to 255 bytes.
_NAME_LENGTH = 50


@contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """Open a new file for writing, and replace ``path`` with it when the block ends without an error.

    A reader sees the old file or the new file, never a part of one. After an error or Ctrl-C the old file is unchanged
    and nothing else is left behind. A killed process leaves its temporary file, which the next one for the same path
    removes. Missing folders are created.

    Args:
        path: path of the file to write.

    Yields:
        The new file, open for writing bytes.

    Raises:
        OSError: if ``path`` is a folder, its folder cannot be written to, or the disk is full; it names the file.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "models" / "model.engine"
        ...     with atomic_file(path) as file:
        ...         size, early = file.write(b"a plan"), path.exists()
        ...     print(size, early, path.exists())
        6 False True
    """
    path = Path(path)
    if path.is_dir():  # os.replace would also refuse, but only after all the work
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # a device or a pipe, such as /dev/stdout, must not be replaced
        with path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    # os.replace is atomic only within a file system, so the temporary file lies beside its target.
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        with claim(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.errno in _DISK_ERRORS:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    return f".{path.name[:_NAME_LENGTH]}."


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files for this path that a killed process has left."""
    pattern = re.compile(re.escape(_prefix(path)) + r"\d+-[0-9a-f]{16}\.tmp")
    with suppress(OSError):  # they only take space
        for file in path.parent.iterdir():
            if pattern.fullmatch(file.name) and is_left(file):
                file.unlink()
