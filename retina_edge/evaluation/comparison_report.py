"""The report of a comparison: an image of the largest changes, and a self-contained HTML page."""

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
from retina_edge.evaluation.coco_metrics import METRICS
from retina_edge.evaluation.comparison import Comparison, ImageDifference
from retina_edge.imaging.image_file import encode_image
from retina_edge.system.html_page import html_page

# Width of the panel of each model, and of the gap between the panels, pixels.
PANEL_WIDTH, GAP = 480, 8
# Height of a caption, pixels.
CAPTION_HEIGHT = 28
# JPEG quality of the images in the page, 0 to 100.
JPEG_QUALITY = 85
# Colors (BGR): background, text, and boxes that both models find.
BACKGROUND, TEXT_COLOR, MATCHED_COLOR = (255, 255, 255), (40, 40, 40), (225, 225, 225)
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; }
"""


def report_files(folder: Path) -> tuple[Path, Path]:
    """Return the files of a report: the page, and the image of the largest changes.

    Examples:
        >>> [path.name for path in report_files(Path("out"))]
        ['index.html', 'changes.png']
    """
    return folder / "index.html", folder / "changes.png"


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write ``changes.png`` with the images that changed most, and ``index.html``.

    Args:
        comparison: comparison of two models.
        folder: folder to write to, which is created if it does not exist.

    Returns:
        The path of ``index.html``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changes = comparison.most_changed
    images = [draw_change(change, comparison) for change in changes]
    page, picture = report_files(folder)
    with atomic_file(picture) as file:
        file.write(encode_image(stack_images(images), ".png"))
    with atomic_file(page) as file:
        file.write(_page(comparison, changes, images).encode())
    return page


def draw_change(change: ImageDifference, comparison: Comparison) -> BgrImage:
    """Draw the first model's boxes on the left, and the second model's on the right.

    Boxes that both models find are thin and pale. Boxes that only one model finds are labeled with their scores.

    Args:
        change: difference in one image.
        comparison: comparison that the difference belongs to.

    Returns:
        The drawing, uint8 [height, width, 3], BGR.
    """
    image = change.image.read(comparison.second.bit_depth)
    scale = PANEL_WIDTH / image.shape[1]
    resized = cv2.resize(image, (PANEL_WIDTH, max(1, round(scale * image.shape[0]))), interpolation=cv2.INTER_AREA)
    panels = []
    for name, detections, unmatched, column in (
        (comparison.first.name, change.first, change.lost, 0),
        (comparison.second.name, change.second, change.new, 1),
    ):
        panel = np.asarray(resized, np.uint8).copy()
        for x1, y1, x2, y2 in np.round(scale * detections.boxes[change.pairs[:, column]]).astype(int).tolist():
            cv2.rectangle(panel, (x1, y1), (x2, y2), MATCHED_COLOR, 1)
        panel = unmatched.with_boxes(scale * unmatched.boxes).plot(panel)
        panels.append(_captioned(panel, f"{name}: {len(detections)} boxes, {len(unmatched)} only here"))
    gap = np.full((panels[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def stack_images(images: Sequence[BgrImage]) -> BgrImage:
    """Stack images vertically.

    Examples:
        >>> row = np.zeros((50, 968, 3), np.uint8)
        >>> stack_images([row, row]).shape
        (108, 968, 3)
    """
    if not images:
        return _captioned(np.full((1, PANEL_WIDTH, 3), BACKGROUND, np.uint8), "nothing changed")
    rows: list[BgrImage] = []
    for image in images:
        rows += [image, np.full((GAP, image.shape[1], 3), BACKGROUND, np.uint8)]
    return np.concatenate(rows[:-1], axis=0)


def _captioned(image: BgrImage, text: str) -> BgrImage:
    """Add a caption above an image."""
    strip = np.full((CAPTION_HEIGHT, image.shape[1], 3), BACKGROUND, np.uint8)
    plain = text.encode("ascii", "replace").decode()  # OpenCV can only draw ASCII
    cv2.putText(strip, plain, (4, CAPTION_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT_COLOR, 1, cv2.LINE_AA)
    return np.concatenate([strip, image], axis=0)


def _page(comparison: Comparison, changes: Sequence[ImageDifference], images: Sequence[BgrImage]) -> str:
    first, second = comparison.first, comparison.second
    rows = [(name, first.evaluation.metrics[name], second.evaluation.metrics[name]) for name in METRICS] + [
        (f"AP {name}", value, second.evaluation.per_class.get(name, math.nan))
        for name, value in first.evaluation.per_class.items()
    ]
    table = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{_number(before)}</td><td>{_number(after)}</td>"
        f"<td>{_number(after - before, '+')}</td></tr>"
        for name, before, after in rows
    )
    jpegs = [encode_image(image, ".jpg", jpeg_quality=JPEG_QUALITY) for image in images]
    figures = "\n".join(
        f'<figure><img alt="{escape(change.image.path.name)}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f"<figcaption>{escape(change.image.path.name)}: {len(change.pairs)} found by both, {len(change.lost)} lost, "
        f"{len(change.new)} new</figcaption></figure>"
        for change, jpeg in zip(changes, jpegs, strict=True)
    )
    columns = (f"{first.evaluation.images} images", first.name, second.name, "difference")
    header = f"<tr>{''.join(f'<th>{escape(column)}</th>' for column in columns)}</tr>"
    title = f"{escape(second.name)} compared with {escape(first.name)}"
    body = f"""<p>{escape(comparison.summary())}.</p>
<table>
{header}
{table}
</table>
<h2>Largest changes</h2>
<p>Thin, pale boxes are found by both models. Boxes with a score are found by only one model.</p>
{figures or "<p>Nothing changed.</p>"}"""
    return html_page(title, STYLE, body)


def _number(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.4f}"
