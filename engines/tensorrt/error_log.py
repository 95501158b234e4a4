"""Keep the errors that TensorRT logs, so that our own errors can quote them."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from engines.tensorrt.api import TensorRT

if TYPE_CHECKING:
    import tensorrt

MAX_QUOTED_ERRORS = 3


class ErrorLog:
    """The errors that one TensorRT library logs in this process.

    Attributes:
        logger: ``ILogger`` for the library; prints nothing.
        count: number of errors so far, to be used as a mark for ``since``.
    """

    def __init__(self, trt: TensorRT) -> None:
        self._last: deque[str] = deque(maxlen=MAX_QUOTED_ERRORS)
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
        """Return the last three errors after a mark in one line, or "nothing" if there were none."""
        recent = min(self.count - mark, MAX_QUOTED_ERRORS)
        return "; ".join(list(self._last)[-recent:]) if recent > 0 else "nothing"


# TensorRT keeps a pointer to the first logger that it was given, and uses this logger until the last engine is freed.
# If the logger is freed earlier, TensorRT crashes. Therefore each library has one logger, which is never freed.
_logs: dict[object, ErrorLog] = {}
_lock = threading.Lock()


def error_log(trt: TensorRT) -> ErrorLog:
    """Return the error log of a TensorRT library, the same object on every call."""
    with _lock:
        if trt.ILogger not in _logs:
            _logs[trt.ILogger] = ErrorLog(trt)
        return _logs[trt.ILogger]
