"""The pictures of the documentation, drawn from the result files in ``benchmarks/results``.

python -m benchmarks.documentation
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

Record = dict[str, Any]
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
OURS, THEIRS = "#1b7f5c", "#8a8f98"
# Key of the PNG metadata that holds the digest of the result file; a test compares it with the current file.
SOURCE = "Source"
# This candidate does less than the others, so its bar is hatched.
PART = "torchvision batched_nms alone"


def draw(name: str, results: Path, pictures: Path | None = None) -> Path:
    """Draw one result file as ``NAME.png`` and return the path of the picture.

    Args:
        name: name of the result file, without its suffix.
        results: folder of the result file.
        pictures: folder to write to; None for the pictures of the documentation.
    """
    content = (results / f"{name}.json").read_bytes()
    figure = DRAWINGS[name](json.loads(content))
    path = (pictures or PICTURES) / f"{name}.png"
    metadata = {"Software": None, SOURCE: source_of(content)}
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata=metadata)
    return path


def source_of(content: bytes) -> str:
    """Return the digest of a result file, as a picture's metadata holds it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _end_to_end(record: Record) -> Figure:
    rows = [row for row in record["figures"] if "ratio" in row]
    cases = list(dict.fromkeys((row["device"], row["input"]) for row in rows))
    figure = Figure(figsize=(9, 1.0 + 0.22 * len(rows) + 0.6 * len(cases)))
    for axes, case in zip(_axes(figure, len(cases), 1), cases, strict=True):
        chosen = [row for row in rows if (row["device"], row["input"]) == case]
        device, side = case
        base = next((row["candidate"] for row in chosen if row["ratio"] == 1), "the first")
        bars = [(row["candidate"], row["ratio"]) for row in chosen]
        _bars(axes, bars, f"R50, {side}×{side}, {device.upper()}", f"times as fast as {base}", ("retina_edge",))
    return figure


def _preprocess(record: Record) -> Figure:
    rows = [row for row in record["figures"] if row["input"] == [800, 800] and "ratio" in row]
    figure = Figure(figsize=(9, 2.6))
    (axes,) = _axes(figure, 1, 1)
    base = next((row["candidate"] for row in rows if row["ratio"] == 1), "the first")
    bars = [(f"{row['candidate']}, {row['frame'][1]}×{row['frame'][0]}", row["ratio"]) for row in rows]
    _bars(axes, bars, "frame to 800×800", f"times as fast as {base} with that frame", ("OpenCV", "fused"))
    return figure


def _postprocess(record: Record) -> Figure:
    rows = [row for row in record["figures"] if "ratio" in row]
    figure = Figure(figsize=(9, 1.9))
    (axes,) = _axes(figure, 1, 1)
    bars = [(row["candidate"] + (" (NMS only)" if row["candidate"] == PART else ""), row["ratio"]) for row in rows]
    title = "raw heads to detections, 800×800, 91 classes, CPU"
    _bars(axes, bars, title, "times as fast as torchvision's postprocess_detections", ("ONNX", "NumPy"))
    return figure


def _postprocess_gpu(record: Record) -> Figure:
    rows = [row for row in record["figures"] if "ms" in row]
    figure = Figure(figsize=(9, 0.8 + 0.25 * len(rows)))
    (axes,) = _axes(figure, 1, 1)
    bars = [
        (f"{row['candidate']}, {row['classes']} classes, {row['type']}, batch {row['batch']}", row["ms"])
        for row in rows
    ]
    unit = "milliseconds per batch; less is better"
    _bars(axes, bars, "raw heads to detections, 800×800, GPU", unit, ("kernels",))
    return figure


def _runner(record: Record) -> Figure:
    stages = {stage: times["p50"] for stage, times in record["figures"]["milliseconds"].items() if times.get("p50")}
    figure = Figure(figsize=(9, 0.8 + 0.25 * len(stages)))
    (axes,) = _axes(figure, 1, 1)
    title = f"R50, 800×800, 1080p frames, network: {record['figures']['network']}"
    _bars(axes, list(stages.items()), title, "milliseconds per frame, median; less is better", tuple(stages))
    return figure


def _detectors(record: Record) -> Figure:
    rows = [row for row in record["figures"] if row.get("published_ap") and "ratio" in row]
    base = next((row for row in record["figures"] if row.get("ratio") == 1), None)
    figure = Figure(figsize=(9, 4.2))
    (axes,) = _axes(figure, 1, 1)
    for row in rows:
        ours = row["run_by"] != "torch eager"
        axes.scatter(row["ratio"], row["published_ap"], color=OURS if ours else THEIRS, zorder=3)
        label = f"{row['detector']}, {'×'.join(map(str, row['input']))}\n{row['run_by']}"
        # Some points lie close together: the label of the slowest one goes to the left, and labels of RetinaNets go
        # below.
        below = row["detector"].startswith("RetinaNet")
        slowest = min(other["ratio"] for other in rows if other["detector"].startswith("RetinaNet") == below)
        alignment, offset = ("right", -7) if row["ratio"] == slowest else ("left", 7)
        axes.annotate(
            label,
            (row["ratio"], row["published_ap"]),
            (offset, -22 if below else 4),
            textcoords="offset points",
            ha=alignment,
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlim(0.08, 1000)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(18, 43)
    base_name = f"{base['detector']}, {'×'.join(map(str, base['input']))}, {base['run_by']}" if base else "the base"
    axes.set_xlabel(f"frames per second, {base_name} = 1")
    axes.set_ylabel("AP on COCO val2017, published for that input")
    axes.grid(alpha=0.3)
    _legend(axes, hatched=False)
    return figure


def _scaling(record: Record) -> Figure:
    rows = [row for row in record["figures"] if "cost" in row]
    names = list(dict.fromkeys(row["varied"] for row in rows))
    figure = Figure(figsize=(9, 2.8))
    titles = {"candidates": "candidates per level", "input": "side of the input, pixels"}
    for axes, name in zip(_axes(figure, 1, len(names)), names, strict=True):
        chosen = [row for row in rows if row["varied"] == name]
        axes.plot([row["value"] for row in chosen], [row["cost"] for row in chosen], "o-", color=OURS)
        axes.set_title(titles.get(name, name), fontsize=9)
        axes.set_ylim(0, 1.15 * max(row["cost"] for row in chosen))
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    base = "320×320, 20 classes,\nbatch 1, no candidates"
    figure.axes[0].set_ylabel(f"cost of a frame, = 1 at\n{base}", fontsize=8)
    return figure


def _axes(figure: Figure, rows: int, columns: int) -> list[Axes]:
    figure.set_layout_engine("constrained")
    return [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]


def _bars(axes: Axes, bars: Sequence[tuple[str, float]], title: str, unit: str, ours: tuple[str, ...]) -> None:
    names = [name for name, _ in bars]
    colors = [OURS if name.startswith(ours) else THEIRS for name in names]
    positions = range(len(bars))
    drawn = axes.barh(positions, [value for _, value in bars], color=colors)
    hatched = [name.startswith(PART) for name in names]
    for bar, part in zip(drawn, hatched, strict=True):
        if part:
            bar.set(facecolor="white", edgecolor=THEIRS, hatch="////")
    axes.set_yticks(positions, names, fontsize=8)
    axes.bar_label(drawn, fmt="%.3g" if "milliseconds" in unit else "%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.12)
    if len(set(colors)) > 1:
        _legend(axes, hatched=any(hatched))


def _legend(axes: Axes, *, hatched: bool) -> None:
    patches = [Patch(color=OURS, label="this project"), Patch(color=THEIRS, label="others")]
    if hatched:
        patches.append(Patch(facecolor="white", edgecolor=THEIRS, hatch="////", label="only a part of the work"))
    # Above the axes, so that the legend covers no bar.
    axes.legend(handles=patches, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)


# Functions that draw a result file, by its name without the suffix.
DRAWINGS: dict[str, Callable[[Record], Figure]] = {
    "end_to_end": _end_to_end,
    "preprocess": _preprocess,
    "postprocess": _postprocess,
    "detectors": _detectors,
    "scaling": _scaling,
    "end_to_end_gpu": _end_to_end,
    "preprocess_gpu": _preprocess,
    "postprocess_gpu": _postprocess_gpu,
    "detectors_gpu": _detectors,
    "scaling_gpu": _scaling,
    "runner_gpu": _runner,
}
