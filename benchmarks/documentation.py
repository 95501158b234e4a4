"""Update of the README's tables, between their marks, and of its pictures from ``benchmarks/results``.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.tables import TABLES, source

README = Path(__file__).parents[1] / "README.md"
# Result files of each mark. The first file is required; the file of a GPU is shown once it exists.
PLACES: dict[str, tuple[str, ...]] = {
    **{name: (name, f"{name}_gpu") for name in ("end_to_end", "detectors", "preprocess", "postprocess", "scaling")},
    **{
        name: (name,)
        for name in ("detect_loop", "load", "endurance", "accuracy", "precisions", "calibrators", "recipe")
    },
    "gpu": ("gpu", "runner_gpu"),
}
NOT_YET = "*It has not been run yet.*"


def main() -> int:
    from benchmarks.plots import DRAWINGS, draw

    README.write_text(with_figures(README.read_text(encoding="utf-8")), encoding="utf-8")
    for name in DRAWINGS:
        if (record.RESULTS / f"{name}.json").is_file():
            draw(name, record.RESULTS)
    return 0


def with_figures(text: str, results: Path | None = None) -> str:
    """Return the README with the text between each pair of marks made from the result files.

    Args:
        text: text of the README.
        results: folder of the result files; None for the project's own.
    """
    for mark, names in PLACES.items():
        filled = f"<!-- {mark} -->\n{_filling(mark, names, results or record.RESULTS)}\n<!-- /{mark} -->"
        parts = re.split(rf"<!-- {mark} -->.*?<!-- /{mark} -->", text, flags=re.S)
        if len(parts) != 2:
            raise ValueError(f"README.md: expected one pair of marks {mark}, found {len(parts) - 1}")
        text = filled.join(parts)
    return text


def _filling(mark: str, names: Sequence[str], results: Path) -> str:
    files = {name: results / f"{name}.json" for name in names if (results / f"{name}.json").is_file()}
    if mark == "gpu" and not files:
        return NOT_YET
    if mark != "gpu" and mark not in files:
        raise ValueError(f"{mark}.json: expected this file in {results}; run python -m benchmarks.{mark}")
    blocks = []
    for name, path in files.items():
        content = json.loads(path.read_text(encoding="utf-8"))
        picture = f"![{name} on a GPU](benchmarks/pictures/{name}.png)\n\n" if _has_generated_picture(name) else ""
        blocks.append(f"{picture}{TABLES[name](content)}\n\n{source(name, content)}")
    return "\n\n".join(blocks)


def _has_generated_picture(name: str) -> bool:
    """True if the picture is part of the generated text; pictures of a CPU are in the README's own text."""
    return name.endswith("_gpu")


if __name__ == "__main__":
    raise SystemExit(main())
