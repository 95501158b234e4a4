"""The charts of a training report, as SVG that takes its ink from the page and so suits light and dark pages."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

# Colors of lines, of which no kind of color vision confuses two: from the palette of Okabe and Ito, the blue lighter.
COLORS = ("#2f8fd8", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Stands for the ink of the page until the chart is text.
INK = "#0a0b0c"
# Size of a chart, inches of 72 units of the SVG.
WIDTH, HEIGHT = 4.6, 2.6
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "retina-edge",  # the same chart gives the same bytes
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    "grid.alpha": 0.2,
    "lines.linewidth": 1.6,
}
# Lines of fewer points have marks on them.
FEW_POINTS = 20
# Points of a line, at most.
MAX_POINTS = 1000
# Bars of the histogram, and the smallest size that it shows, pixels.
BINS, SMALLEST = 40, 0.5
# Classes whose precision is drawn as thin lines, at most.
MAX_LINES = 20


def lines_chart(
    key: str, x: Sequence[float], lines: Mapping[str, Sequence[float]], label: str, *, from_zero: bool = False
) -> str:
    """Draw lines over the epochs, with a legend if there are several.

    Args:
        key: name of the chart, a word, different from those of the other charts of a page.
        x: epoch of each point.
        lines: values by name; NaN for none.
        label: label of the vertical axis, for screen readers, too.
        from_zero: the vertical axis begins at 0.

    Examples:
        >>> lines_chart("loss", [1, 2], {"a": [0.5, 0.25]}, "loss")[:4]
        '<svg'
    """
    with rc_context(STYLE):
        figure, axes = _figure("epoch", label)
        for index, (name, values) in enumerate(lines.items()):
            kept = np.array([point for point in zip(x, values, strict=True) if math.isfinite(point[1])]).reshape(-1, 2)
            kept = kept[:: 1 + len(kept) // MAX_POINTS]
            # A line through a single point would not be seen.
            marker = "o" if len(kept) < FEW_POINTS else ""
            axes.plot(*kept.T, marker=marker, ms=3, color=COLORS[index % len(COLORS)], label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:  # above the axes, where it covers no line
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, columnspacing=1, handlelength=1.2)
        return _svg(figure, key, label)


def precision_chart(key: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Draw the precision at each recall: the mean over the classes, and the classes as thin lines.

    Args:
        key: as for ``lines_chart``.
        curves: precision of each class at recalls of 0, 0.01 ... 1, as from ``precision_curves``; at least one.

    Examples:
        >>> precision_chart("precision", {"tree": [1.0] * 51 + [0.5] * 50})[:4]
        '<svg'
    """
    with rc_context(STYLE):
        figure, axes = _figure("recall", "precision")
        values = np.array(list(curves.values()))
        recall = np.linspace(0, 1, values.shape[1])
        if 1 < len(values) <= MAX_LINES:
            for curve in values:
                axes.plot(recall, curve, color=INK, alpha=0.3, linewidth=0.8)
        axes.plot(recall, values.mean(axis=0), color=COLORS[0], linewidth=2.2)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        return _svg(figure, key, "precision at each recall, IoU 0.5")


def sizes_chart(key: str, sizes: npt.NDArray[np.float32], anchors: Sequence[float]) -> str:
    """Draw how many objects have which size, and the sizes of the anchors below as marks.

    Args:
        key: as for ``lines_chart``.
        sizes: square roots of the areas of the objects, float32 [N], input pixels.
        anchors: sizes of the anchors, input pixels.

    Examples:
        >>> sizes_chart("sizes", np.array([20, 30, 50], np.float32), [16, 32, 64])[:4]
        '<svg'
    """
    with rc_context(STYLE):
        figure, axes = _figure("size in the input, pixels", "objects")
        low, high = min(float(sizes.min()), *anchors), max(float(sizes.max()), *anchors)
        edges = np.geomspace(max(SMALLEST, low / 1.2), high * 1.2, BINS + 1)
        axes.hist(sizes.clip(edges[0], edges[-1]), edges.tolist(), color=COLORS[0])
        for anchor in anchors:
            axes.axvline(anchor, ymax=0.06, color=COLORS[1], linewidth=2)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, key, "sizes of the objects and the anchors")


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(visible=True)
    return figure, axes


def _svg(figure: Figure, key: str, label: str) -> str:
    """Return the figure as an element of HTML, whose ids are different from those of other charts."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # The page has its own font, and other drawings on it.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;\"]*;? ?", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda match: f' id="{key}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(?<=["(])#(?=[\w-]+[")])', f"#{key}-", text)
    return re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-label="{label}">', text, count=1)
