"""How the functions of ``retina_edge.api`` report what they are doing."""

from __future__ import annotations

from collections.abc import Callable

# Called with a phrase for the current step, and the units done and their total, or None if there is nothing to count.
Progress = Callable[[str, "float | None", "float | None"], None]


def no_progress(step: str, done: float | None = None, total: float | None = None) -> None:
    """Report nothing."""
