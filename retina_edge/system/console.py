"""The console of all verbs: Rich's, which prints text of others without obeying it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from retina_edge.system.printable import printable


class Console(RichConsole):
    r"""A console that escapes control characters in names of files, classes and streams, wherever they are printed.

    Rich's own control sequences, for colors and progress bars, are no text and stay.

    Examples:
        >>> Console(width=80).print("a\x1b[2Jb")
        a\x1b[2Jb
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments of something that can be printed, with control characters escaped."""
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or text.isprintable() or text == "\n":
                yield segment
            else:
                yield Segment("\n".join(map(printable, text.split("\n"))), segment.style)
