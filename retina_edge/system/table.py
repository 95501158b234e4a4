"""The table of all verbs: Rich's, whose cells are text of others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from retina_edge.system.printable import printable

# An escape sequence, or any other character.
_UNIT = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|\\.|.")


class Table(RichTable):
    r"""A table of plain text: no markup, and control characters are escaped before the columns are measured.

    Text that is wider than its column is continued on the next line, and no escape sequence is divided.

    Args:
        headers: headers of the columns.
        title: title above the table; empty for none.
        show_header: show the headers.

    Examples:
        >>> from retina_edge.system.console import Console
        >>> table = Table(show_header=False)
        >>> table.add_row("[red]", "a\nb")
        >>> Console(width=30).print(table)
        ┌───────┬──────┐
        │ [red] │ a\nb │
        └───────┴──────┘
    """

    def __init__(self, *headers: str, title: str = "", show_header: bool = True) -> None:
        shown = Text(printable(title), "table.title") if title else None
        super().__init__(*headers, title=shown, title_justify="left", show_header=show_header)

    def add_column(self, header: RenderableType = "", *arguments: Any, **options: Any) -> None:
        """Add a column; see Rich."""
        super().add_column(_cell(header), *arguments, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; see Rich."""
        super().add_row(*(None if cell is None else _cell(cell) for cell in cells), **options)


class _Cell(Text):
    """Text that may be divided at any character, but not within an escape sequence."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        text = Text(_divided(self.plain, options.max_width), overflow="fold")
        yield from text.__rich_console__(console, options)


def _cell(content: RenderableType) -> RenderableType:
    return _Cell(printable(content)) if isinstance(content, str) else content


def _divided(text: str, width: int) -> str:
    r"""Divide words that are wider than a column into lines.

    Examples:
        >>> _divided(r"a b\x07.mp4", 4).split("\n")
        ['a b', '\\x07', '.mp4']
    """
    words = []
    for word in text.split(" "):
        lines = [""]
        for unit in _UNIT.findall(word):
            if lines[-1] and cell_len(lines[-1] + unit) > width:
                lines.append("")
            lines[-1] += unit
        words.append("\n".join(lines))
    return " ".join(words)
