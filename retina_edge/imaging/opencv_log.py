"""A silent OpenCV, because its lines on stderr only repeat what our own errors say."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2

_SILENT = 0

_lock = threading.Lock()
_depth = 0
_level_before = 0


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Silence OpenCV's log inside the block, and FFmpeg's log for the rest of the process.

    FFmpeg reads its log level only once. A level that the user has set with ``OPENCV_FFMPEG_LOGLEVEL`` is kept.
    OpenCV's log level belongs to the process, so blocks of several threads may overlap: the last block to end restores
    the level.

    Examples:
        >>> with quiet_opencv():
        ...     print(cv2.imread("missing.png"))
        None
    """
    global _depth, _level_before
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    set_level = _log_level_setter()
    with _lock:
        if _depth == 0:
            _level_before = set_level(_SILENT)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                set_level(_level_before)


def _log_level_setter() -> Callable[[int], int]:
    """Return OpenCV's function that sets the log level and returns the previous one. OpenCV 5 moved the function."""
    moved = getattr(cv2.utils, "logging", None)
    setter: Callable[[int], int] = moved.setLogLevel if moved else cv2.setLogLevel  # type: ignore[attr-defined]
    return setter
