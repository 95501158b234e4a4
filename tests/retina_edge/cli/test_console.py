"""Names of files, classes and streams that would command a terminal are printed as text."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.progress import Progress
from rich.text import Text

from retina_edge.assets import FOREST, MODEL
from retina_edge.detect import main
from retina_edge.system.console import Console
from retina_edge.system.printable import printable
from retina_edge.system.table import Table

NAME = "bad\x1b[31m\x07\rname"


def test_text_is_escaped_and_richs_own_colors_stay() -> None:
    file = io.StringIO()
    console = Console(file=file, width=60, force_terminal=True, color_system="standard")
    console.print(Text(NAME, "red"))
    table = Table("name")
    table.add_row(NAME)
    console.print(table)
    console.print(f"[green]{NAME}[/green]\nsecond line")
    with Progress(console=console) as progress:
        progress.add_task(NAME)
    text = file.getvalue()
    assert "\x1b[31mbad\\x1b[31m" in text
    assert text.count("\\x1b[31m") >= 4
    assert "\x07" not in text
    assert "\x1b[31m\x07" not in text
    assert "\nsecond line" in text


@pytest.mark.parametrize("width", [12, 17, 20, 30, 80])
def test_a_table_measures_escaped_names_and_divides_no_escape_sequence(width: int) -> None:
    names = [NAME, "\x1b" * 9, "line\nline", "\udce9\U000e0001", "[red]", "Küche " + "客" * 9]
    table = Table(f"n{NAME}", "count", title="t")
    for name in names:
        table.add_row(name, "7")
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    title, *rows = file.getvalue().splitlines()
    assert title.rstrip() == "t"
    assert len({cell_len(row) for row in rows}) == 1
    assert cell_len(rows[0]) <= width
    column = [row.split(row[0])[1].strip() for row in rows if row[0] in "│┃"]
    assert "".join(column).replace(" ", "") == "".join(map(printable, [f"n{NAME}", *names])).replace(" ", "")
    if width > 20:  # the longest escape sequence has 10 characters
        for unit in ("\\x1b", "\\x07", "\\r", "\\n", "\\udce9", "\\U000e0001"):
            assert sum(unit in line for line in column) >= 1
        assert not any(re.search(r"\\(x.?|u.{0,3}|U.{0,7})?$", line) for line in column)


def test_a_file_name_cannot_command_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{NAME}.jpg").write_bytes(b"no image")
    shutil.copy(FOREST, tmp_path / f"good{NAME}.jpg")
    out = tmp_path / "out.jsonl"
    assert main([str(MODEL), str(tmp_path), "--json", str(out), "--save", str(tmp_path / f"saved{NAME}")]) == 1
    printed = "".join(capfd.readouterr()) + out.read_text()
    assert "bad\\x1b[31m" in printed
    assert "\x1b" not in printed
    assert "\x07" not in printed
