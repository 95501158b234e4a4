"""Keeps OpenCV and FFmpeg from writing to stderr what our own errors already say."""

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
    """Silences OpenCV's log inside the block; FFmpeg's for good, because it reads its level only once.

    The log level is the process's, so blocks of several threads may overlap: the last one out restores it. A
    level the user chose for FFmpeg by ``OPENCV_FFMPEG_LOGLEVEL`` stays.
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
    """Takes a level and gives the one before; OpenCV 5 moved it."""
    moved = getattr(cv2.utils, "logging", None)
    setter: Callable[[int], int] = moved.setLogLevel if moved else cv2.setLogLevel  # type: ignore[attr-defined]
    return setter
