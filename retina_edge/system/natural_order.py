"""The natural order of file names, in which 2.jpg comes before 10.jpg."""

from __future__ import annotations

import re
from pathlib import Path


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Return the key that sorts paths part by part, and digits in them by their value.

    Use it wherever the files of a folder or a glob are listed: programs that split a video number its frames without
    leading zeros. Names with equal numbers, such as 01.jpg and 1.jpg, are in alphabetical order.

    Examples:
        >>> [path.name for path in sorted(map(Path, ["10.jpg", "a.jpg", "2.jpg", "1.jpg"]), key=natural_order)]
        ['1.jpg', '2.jpg', '10.jpg', 'a.jpg']
    """
    # Every second piece is a number, so that numbers are never compared with text.
    pieces = (re.split(r"([0-9]+)", part) for part in path.parts)
    return [[int(text) if number % 2 else text for number, text in enumerate(part)] for part in pieces], str(path)
