"""README and documentation: figures come from result files, commands and examples work, links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import record
from benchmarks.documentation import (
    BENCHMARKS,
    PLATFORMS_PAGE,
    README,
    with_figures,
    with_platforms,
    with_summary,
)
from benchmarks.plots import DRAWINGS, PICTURES, SOURCE, draw, source_of
from retina_edge.detections import Detection, Detections
from retina_edge.pipeline.result import Result
from retina_edge.sinks.csv_sink import HEADER
from retina_edge.sources.frames import Frame
from retina_edge.tracking.events import Event
from tests.import_graph import ROOT

DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
# Stands for the rest of a command in prose, such as "retina-edge VERB --help".
PLACEHOLDERS = {"VERB", "..."}


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of a document in a language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.S)


def commands(path: Path) -> list[list[str]]:
    """Return the words of each ``retina-edge`` command in the code blocks of a document."""
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["retina-edge"]]


def test_generated_parts_are_up_to_date() -> None:
    for path, with_tables in ((README, with_summary), (BENCHMARKS, with_figures), (PLATFORMS_PAGE, with_platforms)):
        text = path.read_text(encoding="utf-8")
        assert with_tables(text) == text, "run python -m benchmarks.documentation"


def test_the_fields_of_results_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^\| (an? [^|]+) \| ([^|]+) \|$", (ROOT / "docs/cameras.md").read_text(encoding="utf-8"), re.M)
    fields = {name: re.sub(r"\([^)]*\)", "", text) for name, text in rows}
    documented = {name: set(re.findall(r"`(\w+)`", text)) for name, text in fields.items()}
    box, now = (10.0, 20.0, 50.0, 90.0), datetime.now(timezone.utc)
    event = Event("crossed", "yard", "gate", "in", 3, "car", 0.5, box, (480, 640), now, {}, clip="a.webm")
    assert documented["an event"] == event.to_dict().keys()
    assert documented["a detection"] == {*Detection(box, 0.5, 0, "car").to_dict(), "track"}
    assert documented["a row of `--csv`"] == set(HEADER)
    result = Result(
        Frame(np.zeros((48, 64, 3), np.uint8), index=7, timestamp=0.28, name="a.mp4"), Detections.empty((), ())
    )
    assert documented["a line of `--json`"] == result.to_dict().keys()


def test_pictures_are_drawn_from_the_result_files() -> None:
    """A picture carries the digest of the file that it was drawn from."""
    for path in record.RESULTS.glob("*.json"):
        if path.stem in DRAWINGS:
            with Image.open(PICTURES / f"{path.stem}.png") as picture:
                drawn_from = picture.info.get(SOURCE)
            assert drawn_from == source_of(path.read_bytes()), f"{path.stem}: run python -m benchmarks.documentation"


def test_a_picture_knows_its_file(tmp_path: Path) -> None:
    content = (record.RESULTS / "scaling.json").read_bytes()
    (tmp_path / "scaling.json").write_bytes(content + b" ")
    with Image.open(draw("scaling", tmp_path, tmp_path)) as picture:
        assert picture.info[SOURCE] == source_of(content + b" ") != source_of(content)


def test_links_of_the_readme_lead_to_files() -> None:
    """MkDocs checks the links inside docs/."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(targets) > 10
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_documented_commands_are_accepted_by_the_parsers() -> None:
    found = [(path, words) for path in DOCUMENTS for words in commands(path)]
    assert {words[0] for _, words in found} >= {"train", "export", "build", "evaluate", "detect", "serve", "bench"}
    for path, (verb, *arguments) in found:
        if not PLACEHOLDERS & {verb, *arguments}:
            parser = importlib.import_module(f"retina_edge.{verb}").build_parser()
            try:
                parser.parse_args(arguments)
            except SystemExit as refused:
                pytest.fail(f"{path.name}: retina-edge {verb} {shlex.join(arguments)}: exit code {refused.code}")


@pytest.mark.parametrize("path", [README, ROOT / "docs" / "index.md"], ids=lambda path: path.name)
def test_the_first_python_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example, *_ = blocks(path, "python")
    names: dict[str, object] = {}
    from retina_edge.assets import FOREST

    exec(example.replace('"video.mp4"', repr(str(FOREST))), names)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("tree 0.") for line in lines)
    assert lines[-1].startswith("(622, 2299, 3) Detections(")
    assert "annotated" in names
