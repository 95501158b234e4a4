"""Locks on open files, which tell the programs that write a file apart from those that were killed."""

from __future__ import annotations


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
