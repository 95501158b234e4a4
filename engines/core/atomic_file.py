"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# A number for each temporary file, because two threads may write the same path.
_numbers = itertools.count()


@contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """Open a new file for writing, and replace ``path`` with it when the block ends without an error.

    A reader sees the old file or the new file, never a part of one. After an error or Ctrl-C the old file is unchanged
    and nothing else is left behind. Missing folders are created.

    Args:
        path: path of the file to write.

    Yields:
        The new file, open for writing bytes.

    Raises:
        OSError: if ``path`` is a folder, its folder cannot be written to, or the disk is full.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    # os.replace is atomic only within a file system, so the temporary file lies beside its target. Files of the module
    # tempfile are readable by their owner only, but a model must be readable by all users of the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
