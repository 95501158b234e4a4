"""A comparison to look at: a sheet of pictures, and a page that opens from disk, with the pictures inside."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from engines.core.atomic_file import atomic_file
from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.evaluation.coco_metrics import METRICS
from retina_edge.evaluation.comparison import Comparison, ImageDifference

# Width of each of the two pictures of an image, and between them, pixels.
WIDTH, GAP = 480, 8
CAPTION = 28
# Of the pictures in the page.
QUALITY = 85
PAPER, INK, BOTH = (255, 255, 255), (40, 40, 40), (225, 225, 225)
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; }
"""


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Writes ``changes.png``, the images that changed most, and ``index.html``; gives the path of the page.

    Args:
        comparison: of two models.
        folder: is made where it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changes = comparison.most_changed
    pictures = [picture_of(change, comparison) for change in changes]
    with atomic_file(folder / "changes.png") as file:
        file.write(_encoded(sheet(pictures), ".png"))
    page = folder / "index.html"
    with atomic_file(page) as file:
        file.write(_page(comparison, changes, pictures).encode())
    return page


def picture_of(change: ImageDifference, comparison: Comparison) -> BgrImage:
    """Left the first model, right the second; boxes of both are thin and pale, those of one alone stand out."""
    image = change.image.read()
    scale = WIDTH / image.shape[1]
    resized = cv2.resize(image, (WIDTH, max(1, round(scale * image.shape[0]))), interpolation=cv2.INTER_AREA)
    panels = []
    for name, found, alone, column in (
        (comparison.first.name, change.first, change.lost, 0),
        (comparison.second.name, change.second, change.new, 1),
    ):
        panel = np.asarray(resized, np.uint8).copy()
        for x1, y1, x2, y2 in np.round(scale * found.boxes[change.pairs[:, column]]).astype(int).tolist():
            cv2.rectangle(panel, (x1, y1), (x2, y2), BOTH, 1)
        panel = _scaled(alone, scale).plot(panel)
        panels.append(_captioned(panel, f"{name}: {len(found)} boxes, {len(alone)} of them alone"))
    gap = np.full((panels[0].shape[0], GAP, 3), PAPER, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def sheet(pictures: Sequence[BgrImage]) -> BgrImage:
    """All pictures below each other."""
    if not pictures:
        return _captioned(np.full((1, WIDTH, 3), PAPER, np.uint8), "nothing changed")
    rows: list[BgrImage] = []
    for picture in pictures:
        rows += [picture, np.full((GAP, picture.shape[1], 3), PAPER, np.uint8)]
    return np.concatenate(rows[:-1], axis=0)


def _scaled(found: Detections, scale: float) -> Detections:
    boxes = np.asarray(scale * found.boxes, np.float32)
    return Detections(boxes, found.scores, found.labels, found.class_names, found.category_ids)


def _captioned(picture: BgrImage, text: str) -> BgrImage:
    strip = np.full((CAPTION, picture.shape[1], 3), PAPER, np.uint8)
    plain = text.encode("ascii", "replace").decode()  # OpenCV draws no other letters
    cv2.putText(strip, plain, (4, CAPTION - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    return np.concatenate([strip, picture], axis=0)


def _encoded(picture: BgrImage, kind: str) -> bytes:
    done, content = cv2.imencode(kind, picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if kind == ".jpg" else [])
    if not done:
        raise ValueError(f"expected a picture that can be written as {kind}, got {picture.shape}")
    return content.tobytes()


def _page(comparison: Comparison, changes: Sequence[ImageDifference], pictures: Sequence[BgrImage]) -> str:
    first, second = comparison.first, comparison.second
    rows = [(name, first.evaluation.metrics[name], second.evaluation.metrics[name]) for name in METRICS] + [
        (f"AP {name}", value, second.evaluation.per_class.get(name, math.nan))
        for name, value in first.evaluation.per_class.items()
    ]
    table = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{_number(ours)}</td><td>{_number(theirs)}</td>"
        f"<td>{_number(theirs - ours, '+')}</td></tr>"
        for name, ours, theirs in rows
    )
    figures = "\n".join(
        f'<figure><img alt="{escape(change.image.path.name)}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(_encoded(picture, ".jpg")).decode()}">'
        f"<figcaption>{escape(change.image.path.name)}: {len(change.pairs)} found by both, {len(change.lost)} lost, "
        f"{len(change.new)} new</figcaption></figure>"
        for change, picture in zip(changes, pictures, strict=True)
    )
    columns = (f"{first.evaluation.images} images", first.name, second.name, "difference")
    header = f"<tr>{''.join(f'<th>{escape(column)}</th>' for column in columns)}</tr>"
    title = f"{escape(second.name)} against {escape(first.name)}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{escape(comparison.summary())}.</p>
<table>
{header}
{table}
</table>
<h2>What changed most</h2>
<p>Thin, pale boxes are found by both models; those with a score by one alone.</p>
{figures or "<p>Nothing changed.</p>"}
</body>
</html>
"""


def _number(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.4f}"
