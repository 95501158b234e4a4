"""A Ctrl-C at a step that a test chooses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def interrupt_at(step: int) -> Callable[..., None]:
    """Return a callback that sends SIGINT to this process when it is called for the given time."""
    steps = iter(range(1, 10_000))

    def on_step(*_: object) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step
