"""A sink that shows the newest annotated frame of each stream in a window."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from types import TracebackType

import cv2

from engines.core.errors import SinkError
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink

KEY_ESCAPE = 27


class WindowSink(Sink):
    """A sink that shows the newest annotated frame of each stream in a separate window.

    GUI toolkits work only in one thread. Therefore, ``write`` only keeps the result. Call ``show`` from the main thread
    to draw it.
    """

    def __init__(self) -> None:
        self._results: dict[str, Result] = {}
        self._windows: set[str] = set()

    def __enter__(self) -> Sink:
        # Without a display, Qt ends the process instead of raising an error.
        if sys.platform.startswith("linux") and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
            raise SinkError("cannot open a window: DISPLAY is not set; use a desktop session, or --save")
        try:
            cv2.destroyAllWindows()
        except cv2.error as error:
            raise SinkError(
                "cannot open a window: this OpenCV has no GUI; replace opencv-python-headless with opencv-python, "
                "or use --save"
            ) from error
        return self

    def write(self, result: Result) -> None:
        self._results[result.stream] = result

    def show(self) -> bool:
        """Show the newest frames. Return False if the user pressed q or Escape, or closed a window."""
        try:
            for stream, result in list(self._results.items()):
                if stream not in self._windows:
                    cv2.namedWindow(stream, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                    self._windows.add(stream)
                cv2.imshow(stream, result.annotated)
            if not self._windows:
                return True
            key = cv2.waitKey(1) & 0xFF
            all_open = all(cv2.getWindowProperty(stream, cv2.WND_PROP_VISIBLE) > 0 for stream in self._windows)
            return key not in (KEY_ESCAPE, ord("q")) and all_open
        except cv2.error:  # some toolkits raise an error for a closed window
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._windows:
            with suppress(cv2.error):  # already closed
                cv2.destroyWindow(stream)
