"""Files that belong to one process: created anew, and locked while it writes them.

The lock tells a process that still writes a file apart from one that was killed. It ends with the process.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import BinaryIO

# A temporary file that is neither locked nor as young as this, in seconds, was left by a process that was killed.
LEFT_SECONDS = 1.0
# The same on systems without locks.
LEFT_SECONDS_WITHOUT_LOCKS = 3600.0


def lock(descriptor: int) -> bool | None:
    """Lock an open file for this process, until the file is closed or the process ends.

    The lock only keeps out programs that ask for it.

    Args:
        descriptor: file descriptor, from ``file.fileno()``.

    Returns:
        True if the file is locked now; False if another process, or another open file of this one, holds the lock;
        None if the system or the file system has no locks.

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file, open(file.name) as other:
        ...     lock(file.fileno()), lock(other.fileno())
        (True, False)
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, or for instance some network file systems
        return None
    return True


def open_exclusively(path: Path) -> BinaryIO:
    """Create a file and open it for writing. A file or a link of this name is an error, and is not followed.

    Files of the module tempfile are readable by their owner only; this file is readable as the umask allows.

    Raises:
        FileExistsError: if there is something of this name.
        OSError: if the file cannot be created.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, open_exclusively(Path(folder, "a")) as file:
        ...     file.write(b"new")
        3
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):  # not on every system
        flags |= getattr(os, name, 0)
    return open(path, "wb", opener=lambda name, _flags: os.open(name, flags, 0o666))  # so that the file has its name


def claim(path: Path) -> BinaryIO:
    """Create a file that is locked for this process until it is closed, so that others see that it is still written.

    Raises:
        FileExistsError: if there is something of this name.
        OSError: if the file cannot be created.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, claim(Path(folder, "a.partial.mp4")):
        ...     os.listdir(folder)
        ['a.partial.mp4']
    """
    file = open_exclusively(path)
    lock(file.fileno())
    return file


def is_left(file: Path) -> bool:
    """True if no process writes a file any more that was locked while it was written.

    Raises:
        OSError: if the file cannot be examined.
    """
    status = file.lstat()
    age = time.time() - status.st_mtime
    if not stat.S_ISREG(status.st_mode) or age < LEFT_SECONDS:
        return False
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        locked = lock(descriptor)
        return age > LEFT_SECONDS_WITHOUT_LOCKS if locked is None else locked
    finally:
        os.close(descriptor)
