"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Two threads may write the same file.
_numbers = itertools.count()


@contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """A new file, opened for writing, that takes the place of ``path`` when the block ends without an error.

    A reader finds the old file or the new one, never a part; after an error or Ctrl-C nothing is left behind.
    Missing folders are made.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():  # os.replace would say so too, when all the work is done
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because only there os.replace is atomic. Not by tempfile: its files are for their owner
    # only, a model is for everyone the folder is for.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
