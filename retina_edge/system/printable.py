"""Printable file names."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Escape the bytes of a file name that are not UTF-8, because stdout, JSON and metrics cannot hold them.

    Examples:
        >>> printable("caf\udce9.mp4")
        'caf\\udce9.mp4'
    """
    return text.encode(errors="backslashreplace").decode()
