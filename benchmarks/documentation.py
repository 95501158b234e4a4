"""Update of README and documentation: tables and pictures from ``benchmarks/results``, and the list of platforms.

python -m benchmarks.documentation
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.summary import summary
from benchmarks.table_parts import source
from benchmarks.tables import TABLES
from retina_edge.environment.platforms import PLATFORMS

ROOT = Path(__file__).parents[1]
README, BENCHMARKS, PLATFORMS_PAGE = (ROOT / name for name in ("README.md", "docs/benchmarks.md", "docs/platforms.md"))
# Result files of each mark of docs/benchmarks.md. The first is required; those of a GPU are shown once they exist.
PLACES: dict[str, tuple[str, ...]] = {
    **{name: (name, f"{name}_gpu") for name in ("end_to_end", "detectors", "preprocess", "postprocess", "scaling")},
    **{
        name: (name,)
        for name in (
            "detect_loop",
            "load",
            "host_time",
            "endurance",
            "accuracy",
            "precisions",
            "calibrators",
            "recipe",
            "first_hour",
            "elsewhere",
        )
    },
    "gpu": ("gpu", "runner_gpu"),
}
NOT_YET = "*It has not been run yet.*"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables and the pictures, and return exit code 0."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args(argv)
    from benchmarks.plots import DRAWINGS, draw

    for path, with_tables in ((README, with_summary), (BENCHMARKS, with_figures), (PLATFORMS_PAGE, with_platforms)):
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name in DRAWINGS:
        if (record.RESULTS / f"{name}.json").is_file():
            draw(name, record.RESULTS)
    return 0


def with_summary(text: str, results: Path | None = None) -> str:
    """Return the README with its table of figures made from the result files.

    Args:
        text: text of the README.
        results: folder of the result files; None for the project's own.
    """
    return _filled(text, "summary", summary(results or record.RESULTS))


def with_figures(text: str, results: Path | None = None) -> str:
    """Return ``docs/benchmarks.md`` with the text between each pair of marks made from the result files.

    Args:
        text: text of the page.
        results: folder of the result files; None for the project's own.
    """
    for mark, names in PLACES.items():
        text = _filled(text, mark, _tables(mark, names, results or record.RESULTS))
    return text


def with_platforms(text: str) -> str:
    """Return ``docs/platforms.md`` with the commands for each platform.

    Args:
        text: text of the page.
    """
    lines = ["| Platform | Decode and NMS | Tested by this project |", "|---|---|---|"]
    lines += [f"| {platform.name} | {platform.postprocess} | {platform.proven} |" for platform in PLATFORMS]
    for platform in PLATFORMS:
        commands = "\n".join(platform.commands).replace(" && ", "\n")
        lines += ["", f"## {platform.name}", "", f"```bash\n{commands}\n```"]
    return _filled(text, "platforms", "\n".join(lines))


def _filled(text: str, mark: str, content: str) -> str:
    parts = re.split(rf"<!-- {mark} -->.*?<!-- /{mark} -->", text, flags=re.S)
    if len(parts) != 2:
        raise ValueError(f"expected one pair of marks {mark}, found {len(parts) - 1}")
    return f"<!-- {mark} -->\n{content}\n<!-- /{mark} -->".join(parts)


def _tables(mark: str, names: Sequence[str], results: Path) -> str:
    files = {name: results / f"{name}.json" for name in names if (results / f"{name}.json").is_file()}
    if mark == "gpu" and not files:
        return NOT_YET
    if mark != "gpu" and mark not in files:
        raise ValueError(f"{mark}.json: expected this file in {results}; run python -m benchmarks.{mark}")
    blocks = []
    for name, path in files.items():
        content = json.loads(path.read_text(encoding="utf-8"))
        picture = f"![Chart of the figures in {name}.json](pictures/{name}.png)\n\n" if _has_chart(name) else ""
        blocks.append(f"{picture}{TABLES[name](content)}\n\n{source(name, content)}")
    return "\n\n".join(blocks)


def _has_chart(name: str) -> bool:
    """True if the generated text shows the picture of this file; pictures of a CPU are in the page's own text."""
    from benchmarks.plots import DRAWINGS

    return name.endswith("_gpu") and name in DRAWINGS


if __name__ == "__main__":
    raise SystemExit(main())
