"""Keeps OpenCV and FFmpeg from writing to stderr what our own errors already say."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

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
    log = cv2.utils.logging
    with _lock:
        if _depth == 0:
            _level_before = log.setLogLevel(log.LOG_LEVEL_SILENT)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                log.setLogLevel(_level_before)
