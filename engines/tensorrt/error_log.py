"""What TensorRT says of its errors, kept for our own errors to quote."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from engines.tensorrt.api import TensorRT

if TYPE_CHECKING:
    import tensorrt

QUOTED = 3


class ErrorLog:
    """The errors of one TensorRT library, of everything in this process that uses it.

    Attributes:
        logger: its ``ILogger``; prints nothing.
        count: how many came so far, as a mark for ``since``.
    """

    def __init__(self, trt: TensorRT) -> None:
        self._last: deque[str] = deque(maxlen=QUOTED)
        self.count = 0
        messages = self

        class Collector(trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: tensorrt.ILogger.Severity, message: str) -> None:
                if severity <= trt.ILogger.ERROR:
                    messages._last.append(message.strip())
                    messages.count += 1

        self.logger: tensorrt.ILogger = Collector()

    def since(self, mark: int) -> str:
        """The last few errors that came after a mark, as one line."""
        fresh = min(self.count - mark, QUOTED)
        return "; ".join(list(self._last)[-fresh:]) if fresh > 0 else "nothing"


# TensorRT keeps a pointer to the first logger it was given, and uses it for every engine until the last one is gone:
# one that is freed before them is a crash. So there is one for each library, and it stays.
_kept: dict[object, ErrorLog] = {}
_lock = threading.Lock()


def error_log(trt: TensorRT) -> ErrorLog:
    """The messages of a TensorRT library; the same object each time."""
    with _lock:
        if trt.ILogger not in _kept:
            _kept[trt.ILogger] = ErrorLog(trt)
        return _kept[trt.ILogger]
