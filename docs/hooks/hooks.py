"""Generated parts of the documentation: command line, rooms and their picture.

MkDocs calls ``on_files`` and ``on_page_markdown``; see https://www.mkdocs.org/user-guide/configuration/#hooks.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from command_line import command_line_page  # noqa: E402
from room_picture import draw_rooms, rooms  # noqa: E402


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that are generated as a whole."""
    files.append(File.generated(config, "cli.md", content=command_line_page()))
    files.append(File.generated(config, "pictures/rooms.svg", content=draw_rooms()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Replace the mark in the text of a page by the picture and the list of the rooms."""
    mark = "*`make docs` draws the rooms and their imports here, and lists the rooms.*"
    return markdown.replace(mark, f"![Rooms of the code and their imports](pictures/rooms.svg)\n\n{_rooms()}")


def _rooms() -> str:
    lines = ["| Room | Holds |", "|---|---|"]
    for room in sorted(rooms()):
        path = ROOT / room.replace(".", "/")
        if (source := path / "__init__.py").is_file():
            summary = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            lines.append(f"| `{path.relative_to(ROOT)}/` | {summary.replace('``', '`')} |")
    return "\n".join(lines)
