"""Helpers for the tables of the documentation: cells, Markdown, and the line under a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.record import is_busy

Record = dict[str, Any]
Row = Mapping[str, Any]


def source(name: str, record: Record) -> str:
    """Return the line under a table: the file, the machine, the packages and the command."""
    machine, versions = record["machine"], record["versions"]
    if name.endswith("gpu"):
        where = f"{machine.get('gpu', 'no GPU')}, driver {machine.get('driver', 'unknown')}"
    else:
        kind = "".join(f" ({', '.join(names)})" for names in [machine.get("extensions")] if names)
        where = f"{machine['processor']}{kind}, {machine['cores']} cores, {machine['system']}"
    packages = [
        f"{package} {versions[package]}" for package in ("onnxruntime", "torch", "torchvision") if package in versions
    ]
    busy = is_busy(record.get("conditions", {}).get("before", {}), machine["cores"])
    warning = ["**other processes used the CPU**"] if busy else []
    facts = ", ".join([where, *packages, *warning])
    return f"*`benchmarks/results/{name}.json`: {facts}. `{record['command']}`*"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def ratio(row: Row) -> str:
    """Return how many times as fast as the base a candidate is, or why there is no figure."""
    return f"{row['ratio']:.2f}" if "ratio" in row else row.get("not_run", "")


def milliseconds(row: Row) -> str:
    return f"{row['ms']:.3f}" if "ms" in row else row.get("not_run", "")


def bold(candidate: str, cells: Sequence[str]) -> list[str]:
    own = candidate.startswith("retina_edge")
    return [f"**{cell}**" if own and cell[:1].isdigit() else cell for cell in cells]
