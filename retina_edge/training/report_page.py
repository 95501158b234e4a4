"""The page of a training report: one HTML file that loads nothing. All text of others in it is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.data.anchor_fit import AnchorFit
from retina_edge.evaluation.coco_metrics import METRICS, Evaluation
from retina_edge.evaluation.confusion import BOX_OFF, Confusion
from retina_edge.system.html_page import html_page
from retina_edge.system.printable import printable
from retina_edge.training.report_charts import lines_chart, precision_chart, sizes_chart
from retina_edge.training.training_log import RAW_AP

# Rows of a table of classes, at most: those with the most objects.
MAX_CLASSES = 100
# Characters of a text of others, at most.
MAX_TEXT = 500
# Columns of the log that are no losses.
NO_LOSSES = ("epoch", "step", "learning_rate", "images_per_second", *METRICS, RAW_AP)
STYLE = """
:root { color-scheme: light dark; --soft: #8883; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 75ch; }
.numbers { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; margin: 1rem 0; list-style: none; }
.numbers li { border: 1px solid var(--soft); border-radius: .5rem; padding: .4rem .9rem; }
.numbers b { display: block; font-size: 1.4rem; }
.charts { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; max-width: 560px; height: auto; }
img { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--soft); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .text th, .text td { overflow-wrap: break-word; text-align: left; }
td { max-width: 28em; }
.found, .missed, .wrong { border: 3px solid; box-sizing: border-box; display: inline-block; height: .9em; width: .9em; }
span ~ span { margin-left: 1em; }
.found { border-color: #56b4e9; } .missed { border-color: #e69f00; } .wrong { border-color: #cc79a7; }
"""


@dataclass(frozen=True)
class WorstImage:
    """One of the images with the most errors.

    Attributes:
        name: name of the image file.
        missed: number of objects that were not found.
        false_alarms: number of boxes without an object.
        jpeg: the picture with its boxes, as a JPEG file.
    """

    name: str
    missed: int
    false_alarms: int
    jpeg: bytes


@dataclass(frozen=True)
class TrainingReport:
    """The content of a report.

    Attributes:
        name: name of the checkpoint.
        curves: columns of the log by name, as long as the log; NaN for no value.
        evaluation: metrics of the checkpoint.
        confusion: outcomes of the objects for boxes that score more than ``score``.
        score: that score.
        precision: precision at each recall, by class; see ``precision_curves``.
        worst: the images with the most errors, the worst first.
        sizes: square roots of the areas of the training objects, float32 [N], input pixels.
        anchors: sizes of the anchors of all levels, input pixels.
        fit: fit of the anchors to the training objects.
        recipe: options of the run and the reasons of the chosen ones; None if unknown.
    """

    name: str
    curves: Mapping[str, Sequence[float]]
    evaluation: Evaluation
    confusion: Confusion
    score: float
    precision: Mapping[str, Sequence[float]]
    worst: Sequence[WorstImage]
    sizes: npt.NDArray[np.float32]
    anchors: Sequence[float]
    fit: AnchorFit
    recipe: Mapping[str, Any] | None


def page(report: TrainingReport) -> str:
    """Return the page of a report as HTML."""
    title = f"Training of {_text(report.name)}"
    body = f"""{_numbers(report)}
<h2>Curves</h2>
{_curves(report.curves)}
<h2>Precision and recall</h2>
{_precision(report)}
<h2>Outcome of the objects</h2>
{_confusion(report)}
<h2>Images with the most errors</h2>
{_pictures(report)}
<h2>Objects and anchors</h2>
{_anchors(report)}
<h2>Options</h2>
{_options(report.recipe)}"""
    return html_page(title, STYLE, body)


def _numbers(report: TrainingReport) -> str:
    metrics = report.evaluation.metrics
    rows = report.confusion.rows()
    _, *counts = zip(*rows, strict=True)
    objects, found, _, _, alarms = (sum(column) for column in counts)
    steps = report.curves.get("step", ())
    items = [
        (_value(metrics["AP"]), "AP"),
        (_value(metrics["AP50"]), "AP50"),
        (f"{found} of {objects}", "objects found"),
        (str(alarms), "false alarms"),
        *([(f"{steps[-1]:.0f}", "steps")] if len(steps) and math.isfinite(steps[-1]) else []),
    ]
    listed = "".join(f"<li><b>{value}</b>{name}</li>" for value, name in items)
    return (
        f'<ul class="numbers">{listed}</ul>\n<p>The best checkpoint on {report.evaluation.images} validation images. '
        f"Objects count as found, and boxes as false alarms, if the score is more than {report.score:g}. The "
        "checkpoint was chosen on these images, so expect a little less on others.</p>"
    )


def _curves(curves: Mapping[str, Sequence[float]]) -> str:
    epochs = curves.get("epoch", ())
    if not epochs:
        return "<p>There is no log of this run.</p>"
    losses = {name: values for name, values in curves.items() if name not in NO_LOSSES}
    precision = {name: curves[name] for name in ("AP", "AP50", "AP75", RAW_AP) if _any(curves.get(name, ()))}
    charts = [
        (lines_chart("losses", epochs, losses, "loss", from_zero=True), "Losses, mean of each epoch."),
        (lines_chart("ap", epochs, precision, "average precision", from_zero=True), _ap_caption(precision)),
        (
            lines_chart("rate", epochs, {"rate": curves.get("learning_rate", ())}, "learning rate", from_zero=True),
            "Learning rate after each epoch.",
        ),
    ]
    return _charts(charts)


def _ap_caption(precision: Mapping[str, object]) -> str:
    raw = f" {RAW_AP} is that of the weights without averaging." if RAW_AP in precision else ""
    return f"Average precision on the validation images.{raw}"


def _precision(report: TrainingReport) -> str:
    metrics = _table(("metric", "value"), [(name, _value(value)) for name, value in report.evaluation.metrics.items()])
    if not report.precision:
        return metrics
    several = ", thin lines for the classes" if len(report.precision) > 1 else ""
    chart = precision_chart("precision", report.precision)
    return _charts([(chart, f"At an IoU of 0.5, which is AP50{several}."), (metrics, "")])


def _confusion(report: TrainingReport) -> str:
    per_class = report.evaluation.per_class
    rows = sorted(report.confusion.rows(), key=lambda row: -row[1])
    shown = [
        (name, objects, found, off, objects - found - off - missed, missed, alarms, _value(per_class[name]))
        for name, objects, found, off, missed, alarms in rows[:MAX_CLASSES]
    ]
    columns = ("class", "objects", "found", BOX_OFF, "other class", "missed", "false alarms", "AP")
    more = f"<p>And {len(rows) - MAX_CLASSES} classes with fewer objects.</p>" if len(rows) > MAX_CLASSES else ""
    mistaken = report.confusion.mistaken()[:MAX_CLASSES]
    taken = _table(("class", "taken for", "objects"), mistaken) if mistaken else ""
    return _table(columns, shown) + more + taken


def _pictures(report: TrainingReport) -> str:
    if not report.worst:
        return "<p>There are no errors.</p>"
    figures = "\n".join(
        f'<figure><img alt="" loading="lazy" src="data:image/jpeg;base64,{base64.b64encode(worst.jpeg).decode()}">'
        f"<figcaption>{_text(worst.name)}: {worst.missed} not found, {worst.false_alarms} false alarms</figcaption>"
        "</figure>"
        for worst in report.worst
    )
    legend = (
        '<p><span class="found"></span> found <span class="missed"></span> missed <span class="wrong"></span> false '
        "alarm, wrong class or box off, with its score</p>"
    )
    return f'{legend}\n<div class="pictures">\n{figures}\n</div>'


def _anchors(report: TrainingReport) -> str:
    fit = report.fit
    rows = [(name, size.boxes, _value(size.recall), _value(size.mean_iou)) for name, size in fit.sizes.items()]
    table = _table(("objects", "number", "matched", "mean IoU"), rows)
    chart = sizes_chart("sizes", report.sizes, report.anchors)
    caption = (
        "Sizes of the training objects, square roots of their areas, and below in orange the sizes of the anchors. "
        "Objects far from every mark are hard to learn."
    )
    return _charts(
        [(chart, caption), (table, f"Matched: an anchor overlaps the object by an IoU of 0.5. {fit.options}")]
    )


def _options(recipe: Mapping[str, Any] | None) -> str:
    if recipe is None:
        return "<p>The checkpoint does not record them.</p>"
    chosen = [(choice["option"], choice["value"], choice["reason"]) for choice in recipe["choices"]]
    parts = ["<p>Chosen, because they were not given:</p>", _table(("option", "value", "reason"), chosen, "text")]
    everything = [
        (name, _option(value)) for group in ("options", "model", "augment") for name, value in recipe[group].items()
    ]
    table = _table(("option", "value"), everything, "text")
    return "\n".join([*(parts if chosen else ()), f"<details><summary>All options</summary>{table}</details>"])


def _charts(charts: Iterable[tuple[str, str]]) -> str:
    figures = "\n".join(
        f"<figure>{chart}<figcaption>{_text(caption)}</figcaption></figure>" for chart, caption in charts
    )
    return f'<div class="charts">\n{figures}\n</div>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{_text(str(value))}</td>' for value in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}"><tr>{head}</tr>\n{body}</table></div>'


def _text(text: str) -> str:
    """Return text of a file for HTML: names of classes and images can contain anything, and be of any length."""
    return escape(printable(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"))


def _option(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _value(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _any(values: Sequence[float]) -> bool:
    return any(map(math.isfinite, values))
