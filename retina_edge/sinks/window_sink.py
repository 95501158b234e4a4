"""A window that shows the newest picture."""

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
    """Shows the newest picture of each stream in a window of its own. GUI toolkits want one thread, so ``write`` only
    keeps the results: call ``show`` from the main thread."""

    def __init__(self) -> None:
        self._results: dict[str, Result] = {}
        self._windows: set[str] = set()

    def __enter__(self) -> Sink:
        # Without a display Qt ends the process instead of raising.
        if sys.platform.startswith("linux") and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
            raise SinkError("cannot show a window: DISPLAY is not set; use a desktop session, or --save")
        try:
            cv2.destroyAllWindows()
        except cv2.error as error:
            raise SinkError(
                "cannot show a window: this OpenCV has no GUI; replace opencv-python-headless by opencv-python, "
                "or use --save"
            ) from error
        return self

    def write(self, result: Result) -> None:
        self._results[result.stream] = result

    def show(self) -> bool:
        """Shows the newest pictures; false once the user pressed q or Escape, or closed a window."""
        try:
            for stream, result in list(self._results.items()):
                if stream not in self._windows:
                    cv2.namedWindow(stream, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                    self._windows.add(stream)
                cv2.imshow(stream, result.annotated)
            if not self._windows:
                return True
            key = cv2.waitKey(1) & 0xFF
            open_still = all(cv2.getWindowProperty(stream, cv2.WND_PROP_VISIBLE) > 0 for stream in self._windows)
            return key not in (KEY_ESCAPE, ord("q")) and open_still
        except cv2.error:  # some toolkits raise for a window that was closed
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._windows:
            with suppress(cv2.error):  # already closed
                cv2.destroyWindow(stream)
