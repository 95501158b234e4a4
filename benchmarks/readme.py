"""Writes the figures of ``benchmarks/results`` into the README's tables, between their marks, and draws its pictures.

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
# Result files of each mark. The first must be there; what comes from a GPU is shown once it is.
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
    """The README with each marked place filled from its result files.

    Args:
        text: the README.
        results: folder of the result files; None for the project's own.
    """
    for mark, names in PLACES.items():
        filled = f"<!-- {mark} -->\n{_filling(mark, names, results or record.RESULTS)}\n<!-- /{mark} -->"
        parts = re.split(rf"<!-- {mark} -->.*?<!-- /{mark} -->", text, flags=re.S)
        if len(parts) != 2:
            raise ValueError(f"README.md: expected one place marked {mark}, found {len(parts) - 1}")
        text = filled.join(parts)
    return text


def _filling(mark: str, names: Sequence[str], results: Path) -> str:
    found = {name: results / f"{name}.json" for name in names if (results / f"{name}.json").is_file()}
    if mark == "gpu" and not found:
        return NOT_YET
    if mark != "gpu" and mark not in found:
        raise ValueError(f"{mark}.json: expected it in {results}, found none; run python -m benchmarks.{mark}")
    blocks = []
    for name, path in found.items():
        content = json.loads(path.read_text(encoding="utf-8"))
        picture = f"![{name} on a GPU](benchmarks/pictures/{name}.png)\n\n" if _has_picture_of_its_own(name) else ""
        blocks.append(f"{picture}{TABLES[name](content)}\n\n{source(name, content)}")
    return "\n\n".join(blocks)


def _has_picture_of_its_own(name: str) -> bool:
    """The pictures of a CPU stand in the README's text, where they belong."""
    return name.endswith("_gpu")


if __name__ == "__main__":
    raise SystemExit(main())
