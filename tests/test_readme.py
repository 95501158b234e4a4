"""The README says what is measured, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2

from benchmarks.readme import README, with_figures
from retina_edge.__main__ import VERBS
from retina_edge.sample import FOREST, MODEL

ROOT = Path(__file__).parents[1]


def test_figures_are_those_of_the_result_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_figures(text) == text, "run python -m benchmarks.readme"


def test_every_verb_is_in_the_table_and_every_file_named_exists() -> None:
    text = README.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, flags=re.M)) == set(VERBS)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 3
    places = {f"#{_anchor(heading)}" for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)}
    for target in targets:
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
