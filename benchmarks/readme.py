"""Writes the figures of ``benchmarks/results`` into the README's tables, between their marks, and draws its pictures.

python -m benchmarks.readme
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

README = Path(__file__).parents[1] / "README.md"
Record = dict[str, Any]


def main() -> int:
    from benchmarks.plots import DRAWINGS, draw

    README.write_text(with_figures(README.read_text(encoding="utf-8")), encoding="utf-8")
    for name in DRAWINGS:
        draw(name, _record(name))
    return 0


def with_figures(text: str) -> str:
    """The README with each marked place filled from its result file."""
    for name, table in TABLES.items():
        record = _record(name)
        filled = f"<!-- {name} -->\n{table(record)}\n\n{_source(name, record)}\n<!-- /{name} -->"
        parts = re.split(rf"<!-- {name} -->.*?<!-- /{name} -->", text, flags=re.S)
        if len(parts) != 2:
            raise ValueError(f"README.md: expected one place marked {name}, found {len(parts) - 1}")
        text = filled.join(parts)
    return text


def _record(name: str) -> Record:
    found: Record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _source(name: str, record: Record) -> str:
    machine, versions = record["machine"], record["versions"]
    packages = ", ".join(f"{package} {versions[package]}" for package in ("onnxruntime", "torch", "torchvision"))
    return (
        f"*[{name}.json](benchmarks/results/{name}.json): {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, {packages}. `{record['command']}`*"
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _end_to_end(record: Record) -> str:
    rows = record["figures"]
    places = list(dict.fromkeys((row["device"], row["input"]) for row in rows))
    cells = {(row["candidate"], row["device"], row["input"]): row for row in rows}
    lines = []
    for candidate in dict.fromkeys(row["candidate"] for row in rows):
        found = [cells.get((candidate, *place), {}) for place in places]
        shown = [f"{row['ratio']:.2f}" if "ratio" in row else row.get("not_run", "") for row in found]
        own = candidate.startswith("retina_edge")
        lines.append((candidate, *(f"**{cell}**" if own and cell else cell for cell in shown)))
    return _table(("R50, 91 classes", *(f"{side}×{side}, {device.upper()}" for device, side in places)), lines)


def _preprocess(record: Record) -> str:
    rows = record["figures"]
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    lines = []
    for frame, size in dict.fromkeys((tuple(row["frame"]), tuple(row["input"])) for row in rows):
        found = {row["candidate"]: row for row in rows if (tuple(row["frame"]), tuple(row["input"])) == (frame, size)}
        lines.append(
            (f"{frame[1]}×{frame[0]} to {size[1]}×{size[0]}", *(f"{found[name]['ratio']:.2f}" for name in names))
        )
    return _table(("Frame to input", *names), lines)


def _postprocess(record: Record) -> str:
    rows = [(row["candidate"], f"{row['ratio']:.2f}") for row in record["figures"]["cpu"]]
    return _table(("On the CPU, R50 800×800, 91 classes", "times as fast as torchvision's"), rows)


def _detectors(record: Record) -> str:
    rows = [
        (
            f"{row['detector']}, {row['input']}×{row['input']}",
            row["run_by"],
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['gmac']:.1f}",
            f"{row['published_ap']:.1f}" if row["published_ap"] else "",
            f"{row['ratio']:.2f}",
        )
        for row in record["figures"]
    ]
    return _table(("", "run by", "M parameters", "GMAC", "published AP", "speed, R50 on torch = 1"), rows)


def _scaling(record: Record) -> str:
    rows = record["figures"]
    lines = []
    for name in dict.fromkeys(row["varied"] for row in rows):
        steps = [f"{row['value']}: {row['cost']:.2f}" for row in rows if row["varied"] == name]
        lines.append(({"candidates": "candidates a level"}.get(name, name), ", ".join(steps)))
    return _table(("varied", "cost of a frame"), lines)


def _detect_loop(record: Record) -> str:
    rows = [(row["model"], f"**{row['share']:.2f}**") for row in record["figures"]]
    return _table(("Model", "frames a second of the loop, as a share of the bare session's"), rows)


def _accuracy(record: Record) -> str:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    rows = [(f"`{row['model']}`", *(f"{row['metrics'][name]:.3f}" for name in names)) for row in record["figures"]]
    return _table(("", *names), rows)


def _precisions(record: Record) -> str:
    speed, sizes = record["figures"]["speed"], record["figures"]["engines"]["megabytes"]
    rows = []
    for row in record["figures"]["accuracy"]:
        precision, _, layout = row["model"].partition(" for ")
        ratio = speed.get(f"network {row['model']} ratio", 1.0 if precision == "fp32" else None)
        size = sizes[precision] if layout != "cpu" else None
        rows.append(
            (
                precision.upper() + (f", `--for {layout}`" if layout else ""),
                f"{row['AP']:.4f}",
                f"{row['AP50']:.4f}",
                f"**{ratio:.2f}**" if ratio else "",
                f"{size:.1f}" if size else "",
            )
        )
    target, backend = record["figures"]["engines"]["target"], record["figures"]["engines"]["backend"]
    header = (
        "",
        "AP, sample model",
        "AP50",
        f"speed on this CPU, R50 {speed['input']}×{speed['input']}, network alone, FP32 = 1",
        f"MB of an R50 engine for {target}, {backend}",
    )
    return _table(header, rows)


TABLES: dict[str, Callable[[Record], str]] = {
    "end_to_end": _end_to_end,
    "detectors": _detectors,
    "preprocess": _preprocess,
    "postprocess": _postprocess,
    "scaling": _scaling,
    "detect_loop": _detect_loop,
    "accuracy": _accuracy,
    "precisions": _precisions,
}


if __name__ == "__main__":
    raise SystemExit(main())
