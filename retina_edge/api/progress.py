"""The callback with which the functions of ``retina_edge.api`` report their progress."""

from __future__ import annotations

from collections.abc import Callable

# Takes a phrase for the current step, and the number of units done and their total; None if there is nothing to count.
Progress = Callable[[str, "float | None", "float | None"], None]


def no_progress(step: str, done: float | None = None, total: float | None = None) -> None:
    """Report nothing."""
