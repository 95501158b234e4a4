"""Changes of one value inside JSON content, at a path such as ``inputs.0.shape``."""

from __future__ import annotations

from typing import Any

MISSING = object()  # in place of a value: remove the key


def put_at(content: Any, path: str, value: Any) -> None:
    """Replace the value at a path of keys and indices, or remove it with ``MISSING``."""
    *outer, last = (int(key) if key.isdecimal() else key for key in path.split("."))
    for key in outer:
        content = content[key]
    if value is MISSING:
        del content[last]
    else:
        content[last] = value
