"""A window that shows the newest picture."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from types import TracebackType

import cv2

from retina_edge.sinks.base import Picture, Result, Sink, SinkError

KEY_ESCAPE = 27


class WindowSink(Sink):
    """Shows the newest picture. GUI toolkits want one thread, so ``write`` only keeps the picture: call
    ``show`` from the main thread."""

    def __init__(self, title: str = "retina-edge") -> None:
        self.title = title
        self._picture: Picture | None = None

    def __enter__(self) -> Sink:
        # Without a display Qt ends the process instead of raising.
        if sys.platform.startswith("linux") and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
            raise SinkError("cannot show a window: DISPLAY is not set; use a desktop session, or --save")
        try:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise SinkError(
                "cannot show a window: this OpenCV has no GUI; replace opencv-python-headless by opencv-python, "
                "or use --save"
            ) from error
        return self

    def write(self, result: Result) -> None:
        self._picture = result.picture

    def show(self, *, wait: bool = False) -> bool:
        """Shows the newest picture, with ``wait`` until a key; false once the user pressed q or Escape, or
        closed the window."""
        try:
            if self._picture is not None:
                cv2.imshow(self.title, self._picture)
            key = cv2.waitKey(0 if wait else 1) & 0xFF
            return key not in (KEY_ESCAPE, ord("q")) and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) > 0
        except cv2.error:  # some toolkits raise for a window that was closed
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(cv2.error):  # already closed
            cv2.destroyWindow(self.title)
