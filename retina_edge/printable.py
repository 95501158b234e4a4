"""Names of files as text that can be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with escapes for what is no UTF-8 in a file's name: neither stdout, JSON nor metrics hold it as it is."""
    return text.encode(errors="backslashreplace").decode()
