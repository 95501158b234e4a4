"""Draws detections, tracks, zones and lines so that they can be read on light and on dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge.detections import Detections
from retina_edge.tracking.counting import Tally
from retina_edge.tracking.zones import Zone

Color = tuple[int, int, int]

# Okabe and Ito, "Color Universal Design" (2008): told apart with any kind of colour vision. BGR, without black.
PALETTE: tuple[Color, ...] = (
    (0, 159, 230),  # orange
    (233, 180, 86),  # sky blue
    (66, 228, 240),  # yellow
    (115, 158, 0),  # bluish green
    (167, 121, 204),  # reddish purple
    (0, 94, 213),  # vermillion
    (178, 114, 0),  # blue
)
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
# How much of a zone's colour lies over its ground.
TINT = 0.18
# Shorter image side, pixels, for which lines are 2 pixels thick and text has the font's half size.
REFERENCE_SIDE = 720


def color_of(label: int) -> Color:
    """The class's colour, BGR; the same in every run and every picture."""
    return PALETTE[label % len(PALETTE)]


def annotate(
    image: npt.NDArray[np.uint8],
    detections: Detections,
    *,
    tracks: npt.NDArray[np.int64] | None = None,
    tallies: Sequence[Tally] = (),
) -> npt.NDArray[np.uint8]:
    """A copy of ``image`` uint8 [height, width, 3] BGR with the boxes drawn, the best on top.

    Each box has a dark rim against light ground. A box narrower than its label shows the score alone; in
    pictures of one class the colour already says the rest.

    Args:
        image: is not written into.
        detections: in its pixels.
        tracks: int64 [N], the track of each; shown as #12 before the class, and alone on a narrow box. Below 0 none.
        tallies: zones and lines with their counts. A line's arrow points to the side of "in".
    """
    picture = np.ascontiguousarray(image).copy()
    relative = min(picture.shape[:2]) / REFERENCE_SIDE
    thickness = max(2, round(2 * relative))
    font_scale = min(3.0, max(0.35, 0.5 * relative))
    for tally in tallies:
        _draw_region(picture, tally, thickness)
    corners = np.round(detections.boxes).astype(int).tolist()
    ids = [-1] * len(detections) if tracks is None else tracks.tolist()
    rows = list(zip(corners, detections.scores.tolist(), detections.labels.tolist(), ids, strict=True))
    for (x1, y1, x2, y2), _, label, _ in reversed(rows):
        cv2.rectangle(picture, (x1, y1), (x2, y2), BLACK, thickness + 2)
        cv2.rectangle(picture, (x1, y1), (x2, y2), color_of(label), thickness)
    # Labels after all boxes: no line crosses a number.
    for (x1, y1, x2, _), score, label, track in reversed(rows):
        text = f"{detections.class_names[label]} {score:.2f}"
        if track >= 0:
            text = f"#{track} {text}"
        if _text_size(text, font_scale)[0] > x2 - x1:
            text = f"{score:.2f}" if track < 0 else f"#{track}"
        _draw_label(picture, text, (x1, y1), color_of(label), font_scale)
    for tally in tallies:
        x, y = _label_place(tally, picture.shape[:2])
        _draw_label(picture, _text(tally), (x, y), BLACK, font_scale)
    return picture


def _draw_region(picture: npt.NDArray[np.uint8], tally: Tally, thickness: int) -> None:
    """A zone's tint and border, or a line with its arrow, in white with a dark rim, which no class has."""
    points = np.round(tally.region.in_pixels(picture.shape[:2])).astype(np.int32)
    if isinstance(tally.region, Zone):
        left, top, across, down = cv2.boundingRect(points)
        part = picture[top : top + down, left : left + across]
        if part.size:
            tinted = part.copy()
            cv2.fillPoly(tinted, [points - (left, top)], WHITE)
            cv2.addWeighted(tinted, TINT, part, 1 - TINT, 0, dst=part)
        for color, width in ((BLACK, thickness + 2), (WHITE, thickness)):
            cv2.polylines(picture, [points], True, color, width, cv2.LINE_AA)
        return
    start, end = points
    way = (end - start) / max(1.0, float(np.hypot(*(end - start))))
    middle = (start + end) / 2
    tip = middle + 16 * thickness * np.array((-way[1], way[0]))
    for color, width in ((BLACK, thickness + 2), (WHITE, thickness)):
        cv2.line(picture, _pixel(start), _pixel(end), color, width, cv2.LINE_AA)
        cv2.arrowedLine(picture, _pixel(middle), _pixel(tip), color, width, cv2.LINE_AA, tipLength=0.4)


def _text(tally: Tally) -> str:
    return f"{tally.region.name}: " + ", ".join(f"{count} {name}" for name, count in tally.counts.items())


def _label_place(tally: Tally, size: tuple[int, int]) -> tuple[int, int]:
    """The label's lower left corner: a zone's highest point, or the start of a line."""
    points = tally.region.in_pixels(size)
    return _pixel(points[points[:, 1].argmin() if isinstance(tally.region, Zone) else 0])


def _pixel(point: npt.NDArray[Any]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def _draw_label(picture: npt.NDArray[Any], text: str, corner: tuple[int, int], color: Color, font_scale: float) -> None:
    """Text on its class's colour above ``corner`` (x, y), moved inside the picture where it would leave it."""
    width, height, baseline = _text_size(text, font_scale)
    pad = max(1, round(4 * font_scale))
    box_width, box_height = width + 2 * pad, height + baseline + 2 * pad
    left = max(0, min(corner[0], picture.shape[1] - box_width))
    top = max(0, min(corner[1] - box_height, picture.shape[0] - box_height))
    cv2.rectangle(picture, (left, top), (left + box_width - 1, top + box_height - 1), color, cv2.FILLED)
    origin = (left + pad, top + pad + height)
    text_color = BLACK if _luminance(color) > 110 else WHITE
    cv2.putText(picture, text, origin, FONT, font_scale, text_color, max(1, round(2 * font_scale)), cv2.LINE_AA)


def _text_size(text: str, font_scale: float) -> tuple[int, int, int]:
    """Width, height above and depth below the baseline, pixels."""
    (width, height), baseline = cv2.getTextSize(text, FONT, font_scale, max(1, round(2 * font_scale)))
    return width, height, baseline


def _luminance(color: Color) -> float:
    """ITU-R BT.601 luma of a BGR colour, 0 to 255."""
    return 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]
