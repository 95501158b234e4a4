"""The tables of accuracy in the documentation: of the sample model, of precisions, and of training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.table_parts import Record, table


def accuracy(record: Record) -> str:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    rows = [(f"`{row['model']}`", *(f"{row['metrics'][name]:.3f}" for name in names)) for row in record["figures"]]
    return table(("", *names), rows)


def calibrators(record: Record) -> str:
    fp32, *rows = record["figures"]
    lines = [
        (
            row["calibrator"],
            f"`--for {row['layout']}`",
            f"{row['AP']:.4f}",
            f"{100 * (fp32['AP'] - row['AP']):+.2f}",
            f"{row['AP50']:.4f}",
            f"{row['decibels']:.1f}" if "decibels" in row else "",
        )
        for row in rows
    ]
    header = ("calibrator", "layout", "AP", "AP points lost", "AP50", "worst raw head, dB")
    return table(header, [("FP32", "", f"{fp32['AP']:.4f}", "", f"{fp32['AP50']:.4f}", ""), *lines])


def recipe(record: Record) -> str:
    runs: dict[tuple[str, str], list[Any]] = {}
    for row in record["figures"]:
        runs.setdefault((row["data"], row["step"]), []).append(row)
    values = {key: {name: [row[name] for row in rows] for name in ("AP", "AP50")} for key, rows in runs.items()}
    lines = []
    for (data, step), rows in runs.items():
        means = [_mean_and_spread(values[data, step][name]) for name in ("AP", "AP50")]
        gain = "" if step == "base" else _gain(values[data, "base"]["AP"], values[data, step]["AP"])
        lines.append((data, step, f"`{rows[0]['options']}`", *means, gain))
    lines.sort(key=lambda row: row[0])
    return table(("data", "step", "options", "AP", "AP50", "gain in AP"), lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    """Return the mean and the sample standard deviation as text."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _gain(base: Sequence[float], values: Sequence[float]) -> str:
    """Return the gain as text. Within the spread means: less than the deviation of a difference of two runs."""
    gain = statistics.mean(values) - statistics.mean(base)
    if len(base) < 2 or len(values) < 2:
        return f"{gain:+.3f}, one run"
    within = abs(gain) < math.hypot(statistics.stdev(base), statistics.stdev(values))
    return f"{gain:+.3f}{', within the spread' if within else ''}"


def elsewhere(record: Record) -> str:
    rows = [(row["forest"], str(row["trees"]), f"{row['AP']:.3f}", f"{row['AP50']:.3f}") for row in record["figures"]]
    return table(("forest", "trees", "AP", "AP50"), rows)


def first_hour(record: Record) -> str:
    rows = [
        (
            row["data"],
            f"{row['minutes']:g}",
            str(row["seed"]),
            str(row["steps"]),
            f"{row['AP']:.3f}",
            f"{row['AP50']:.3f}",
        )
        for row in record["figures"]
    ]
    return table(("", "minutes", "seed", "steps", "AP", "AP50"), rows)


def precisions(record: Record) -> str:
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
    return table(header, rows)
