"""Names of files, classes and streams that would command a terminal are printed as text."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from retina_edge.assets import FOREST, MODEL
from retina_edge.detect import main
from retina_edge.system.console import Console

NAME = "bad\x1b[31m\x07\rname"


def test_text_is_escaped_and_richs_own_colors_stay() -> None:
    file = io.StringIO()
    console = Console(file=file, width=60, force_terminal=True, color_system="standard")
    console.print(Text(NAME, "red"))
    table = Table("name")
    table.add_row(Text(NAME))
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


def test_a_file_name_cannot_command_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{NAME}.jpg").write_bytes(b"no image")
    shutil.copy(FOREST, tmp_path / f"good{NAME}.jpg")
    out = tmp_path / "out.jsonl"
    assert main([str(MODEL), str(tmp_path), "--json", str(out), "--save", str(tmp_path / f"saved{NAME}")]) == 1
    printed = "".join(capfd.readouterr()) + out.read_text()
    assert "bad\\x1b[31m" in printed
    assert "\x1b" not in printed
    assert "\x07" not in printed
