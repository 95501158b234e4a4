"""The README says what is measured, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.readme import README, with_figures
from retina_edge.__main__ import VERBS

ROOT = Path(__file__).parents[1]


def test_figures_are_those_of_the_result_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_figures(text) == text, "run python -m benchmarks.readme"


def test_every_verb_is_in_the_table_and_every_file_named_exists() -> None:
    text = README.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, flags=re.M)) == set(VERBS)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 3
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_the_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    printed: list[tuple[object, ...]] = []
    exec(  # the example as printed, from the checkout's folder
        code.replace("retina_edge/assets", str(ROOT / "retina_edge" / "assets")),
        {"print": lambda *values: printed.append(values)},
    )
    assert len(printed) > 10
    assert printed[0][0] == "tree"
