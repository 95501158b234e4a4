"""Draws the figures of ``benchmarks/results`` as the README's pictures; only ratios, as in its tables.

python -m benchmarks.readme
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = dict[str, Any]
PICTURES = Path(__file__).parent / "pictures"
OURS, THEIRS = "#1b7f5c", "#8a8f98"


def draw(name: str, record: Record) -> Path:
    """``benchmarks/pictures/NAME.png`` of one result file."""
    figure = DRAWINGS[name](record)
    path = PICTURES / f"{name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    return path


def _end_to_end(record: Record) -> Figure:
    rows = [row for row in record["figures"] if "ratio" in row]
    places = list(dict.fromkeys((row["device"], row["input"]) for row in rows))
    figure = Figure(figsize=(9, 0.8 + 1.6 * len(places)))
    for axes, place in zip(_axes(figure, len(places), 1), places, strict=True):
        chosen = [row for row in rows if (row["device"], row["input"]) == place]
        device, side = place
        _bars(axes, [(row["candidate"], row["ratio"]) for row in chosen], f"R50, {side}×{side}, {device.upper()}")
    return figure


def _preprocess(record: Record) -> Figure:
    rows = [row for row in record["figures"] if row["input"] == [800, 800]]
    figure = Figure(figsize=(9, 2.6))
    (axes,) = _axes(figure, 1, 1)
    bars = [(f"{row['candidate']}, {row['frame'][1]}×{row['frame'][0]}", row["ratio"]) for row in rows]
    _bars(axes, bars, "frame to 800×800; OpenCV = 1 for each frame size", ours=("OpenCV", "fused"))
    return figure


def _postprocess(record: Record) -> Figure:
    rows = record["figures"]["cpu"]
    figure = Figure(figsize=(9, 1.8))
    (axes,) = _axes(figure, 1, 1)
    bars = [(row["candidate"], row["ratio"]) for row in rows]
    _bars(axes, bars, "raw heads to detections, 800×800, 91 classes, CPU", ours=("ONNX", "NumPy"))
    return figure


def _detectors(record: Record) -> Figure:
    rows = [row for row in record["figures"] if row["published_ap"] and row["device"] == "cpu"]
    figure = Figure(figsize=(9, 4))
    (axes,) = _axes(figure, 1, 1)
    for row in rows:
        ours = row["detector"].startswith("RetinaNet")
        axes.scatter(row["ratio"], row["published_ap"], color=OURS if ours else THEIRS, zorder=3)
        label = f"{row['detector']}\n{row['run_by']}, {row['input']}×{row['input']}"
        # Where the points crowd, names go to both sides and ours below.
        side, place = ("right", -7) if row["ratio"] <= 1 else ("left", 7)
        axes.annotate(
            label,
            (row["ratio"], row["published_ap"]),
            (place, -20 if ours else 4),
            textcoords="offset points",
            ha=side,
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlim(0.2, 300)
    axes.set_ylim(18, 43)
    axes.set_xlabel("frames a second, RetinaNet R50 on torch eager = 1")
    axes.set_ylabel("AP on COCO val2017, published")
    axes.grid(alpha=0.3)
    return figure


def _scaling(record: Record) -> Figure:
    rows = record["figures"]
    names = list(dict.fromkeys(row["varied"] for row in rows))
    figure = Figure(figsize=(9, 2.6))
    for axes, name in zip(_axes(figure, 1, len(names)), names, strict=True):
        chosen = [row for row in rows if row["varied"] == name]
        axes.plot([row["value"] for row in chosen], [row["cost"] for row in chosen], "o-", color=OURS)
        axes.set_title(
            {"candidates": "candidates a level", "input": "input, pixels a side"}.get(name, name), fontsize=9
        )
        axes.set_ylim(0, 1.15 * max(row["cost"] for row in chosen))
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    figure.axes[0].set_ylabel("cost of a frame", fontsize=9)
    return figure


def _axes(figure: Figure, rows: int, columns: int) -> list[Axes]:
    figure.set_layout_engine("constrained")
    return [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]


def _bars(axes: Axes, bars: list[tuple[str, float]], title: str, ours: tuple[str, ...] = ("retina_edge",)) -> None:
    names = [name for name, _ in bars]
    colours = [OURS if name.startswith(ours) else THEIRS for name in names]
    places = range(len(bars))
    drawn = axes.barh(places, [value for _, value in bars], color=colours)
    axes.set_yticks(places, names, fontsize=8)
    axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("times as fast", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.12)


DRAWINGS: dict[str, Callable[[Record], Figure]] = {
    "end_to_end": _end_to_end,
    "preprocess": _preprocess,
    "postprocess": _postprocess,
    "detectors": _detectors,
    "scaling": _scaling,
}
