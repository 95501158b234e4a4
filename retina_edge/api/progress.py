"""The callback with which the functions of ``retina_edge.api`` report their progress."""

from __future__ import annotations

from collections.abc import Callable

# Takes (current step, units done, total units). The step is a phrase; the numbers are None if nothing is counted.
Progress = Callable[[str, "float | None", "float | None"], None]


def no_progress(step: str, done: float | None = None, total: float | None = None) -> None:
    """Report nothing."""
