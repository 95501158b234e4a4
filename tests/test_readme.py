"""The README says what is measured, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import pytest
from PIL import Image

from benchmarks import record
from benchmarks.plots import DRAWINGS, PICTURES, SOURCE, draw, source_of
from benchmarks.readme import README, with_figures
from retina_edge.__main__ import VERBS
from retina_edge.assets import FOREST, MODEL

ROOT = Path(__file__).parents[1]
# A figure in words or numbers: with a unit, as a share, as a ratio.
UNITS = r"ms|µs|s|seconds?|minutes?|hours?|%|percent|times|×(?!\d)|[kMGT]?B|G?FLOPs?|GMAC|M|AP\w*|fps|FPS|frames|W|°C"
SHARES = r"half|halves|twice|thrice|(?:third|fourth|quarter|fifth|tenth|hundredth)s?"
FIGURE = rf"\d(?:[\d.,]*\d)?\s?(?:{UNITS})(?![\w-])|\b(?:{SHARES})\b"


def test_figures_are_those_of_the_result_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_figures(text) == text, "run python -m benchmarks.readme"


@pytest.mark.parametrize("name", [path.stem for path in sorted(record.RESULTS.glob("*.json")) if path.stem in DRAWINGS])
def test_pictures_are_of_the_result_files(name: str) -> None:
    """A picture carries the digest of the file it was drawn from."""
    with Image.open(PICTURES / f"{name}.png") as picture:
        drawn_from = picture.info.get(SOURCE)
    assert drawn_from == source_of((record.RESULTS / f"{name}.json").read_bytes()), "run python -m benchmarks.readme"


def test_a_picture_knows_its_file(tmp_path: Path) -> None:
    content = (record.RESULTS / "scaling.json").read_bytes()
    (tmp_path / "scaling.json").write_bytes(content + b" ")
    with Image.open(draw("scaling", tmp_path, tmp_path)) as picture:
        assert picture.info[SOURCE] == source_of(content + b" ") != source_of(content)


def figures_in(prose: str) -> list[str]:
    """What looks like a measured figure outside of tables that are written from results, of code and of addresses."""
    for left_out in (r"<!-- (\w+) -->.*?<!-- /\1 -->", r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"arXiv [\d.]+"):
        prose = re.sub(left_out, " ", prose, flags=re.S)
    return re.findall(FIGURE, prose)


def test_no_figure_stands_in_the_prose_of_figures() -> None:
    section = README.read_text(encoding="utf-8").partition("\n## Figures\n")[2].partition("\n## ")[0]
    assert len(section) > 1000
    assert figures_in(section) == []


@pytest.mark.parametrize(
    "prose",
    [
        "takes 1.5 ms a frame",
        "3 times as fast",
        "wins 20 %",
        "nine tenths of it",
        "twice as fast",
        "2.6× faster",
        "34 M",
    ],
)
def test_a_figure_in_prose_would_be_seen(prose: str) -> None:
    assert figures_in(f"Everything {prose}, and more.")
    assert figures_in(f"<!-- a -->Everything {prose}.<!-- /a --> `{prose}`") == []


def test_every_verb_is_in_the_table_and_every_file_named_exists() -> None:
    text = README.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, flags=re.M)) == set(VERBS)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 3
    places = {f"#{_anchor(heading)}" for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)}
    for target in targets:
        if not target.startswith("https://"):
            assert target in places if target.startswith("#") else (ROOT / target).is_file(), target


def _anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_python_examples_run() -> None:
    first, second = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    printed: list[tuple[object, ...]] = []
    names: dict[str, Any] = {"print": lambda *values: printed.append(values)}
    # As printed, from the checkout's folder.
    exec(first.replace("retina_edge/assets", str(ROOT / "retina_edge" / "assets")), names)
    assert len(printed) > 10
    assert printed[0][0] == "tree"
    names["frame"] = cv2.imread(str(FOREST))
    exec(second.replace("model.engine", str(MODEL)), names)
    assert len(names["several"]) == 2
    assert len(names["detections"]) == len(printed)
