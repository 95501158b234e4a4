"""What ``retina-edge bench`` found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = ("mean", "p50", "p90", "p99")


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Prints what stands in the JSON file, too.

    Args:
        report: of ``retina_edge.bench``.
    """
    height, width = report["input"]
    frame_height, frame_width = report["frame"]
    console.print(
        f"{report['model']}: {report['precision']}, {height}×{width}, {report['classes']} classes, batch "
        f"{report['batch']}, frames of {frame_height}×{frame_width}",
        highlight=False,
    )
    if "mlperf" in report:
        found = dict(report["mlperf"])
        if not found["as the rules ask"]:
            found["Result is"] = f"{found['Result is']}, but not as the rules ask"
        _table(console, ("LoadGen", ""), [(name, _text(value)) for name, value in found.items()])
    else:
        rows = [
            (
                f"{stage}, {report['notes'][stage]}" if stage in report["notes"] else stage,
                str(latency["runs"]),
                *("-" if latency[column] is None else f"{latency[column]:.3f}" for column in COLUMNS),
            )
            for stage, latency in report["milliseconds"].items()
        ]
        _table(console, ("milliseconds a batch", "runs", *COLUMNS), rows)
    _table(console, ("", ""), _facts(report))


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = {}
    if "throughput" in report:
        found = report["throughput"]
        how = f"streams: {found['streams']}, batches of each on their way: {found['in_flight']}"
        facts["throughput"] = f"{found['frames_per_second']:.2f} frames/s ({how})"
        facts["jitter, p99/p50"] = "-" if report["jitter"] is None else f"{report['jitter']:.2f}"
        if report["host_overhead"] is not None:
            facts["host overhead"] = f"{report['host_overhead']:.1%} of the GPU's time"
    facts["loading the model"] = f"{report['load_seconds']:.2f} s"
    facts["peak memory"] = (
        f"{report['peak_memory_mb']:.0f} MB, {report['frames_mb']:.0f} of them frames read beforehand"
    )
    if "gpu_memory_mib" in report:
        facts["memory of the GPU"] = f"{report['gpu_memory_mib']:.0f} MiB more than before"
    facts |= {name: _text(value) for name, value in report["machine"].items()}
    moments = [found for found in report["conditions"].values() if found]
    for name in dict.fromkeys(name for found in moments for name in found):
        values = [_text(found.get(name, "-")) for found in moments]
        facts[name] = values[0] if len(set(values)) == 1 else " → ".join(values)
    facts["versions"] = _text(report["versions"])
    return list(facts.items())


def _table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, show_header=any(columns))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return str(value)
