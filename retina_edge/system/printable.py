"""Text of others, such as file names, made safe to print."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Escape what a terminal would obey, or stdout, JSON and metrics cannot hold.

    These are control characters, which could move the cursor or forge a line of a log, and the bytes of a file name
    that are not UTF-8.

    Examples:
        >>> printable("caf\udce9.mp4"), printable("a\x1b[2J\nb"), printable("Küche 1")
        ('caf\\udce9.mp4', 'a\\x1b[2J\\nb', 'Küche 1')
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
