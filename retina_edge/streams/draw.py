"""Draws detections so that they can be read on light and on dark ground."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge.detections import Detections

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
# Shorter image side, pixels, for which lines are 2 pixels thick and text has the font's half size.
REFERENCE_SIDE = 720


def color_of(label: int) -> Color:
    """The class's colour, BGR; the same in every run and every picture."""
    return PALETTE[label % len(PALETTE)]


def annotate(image: npt.NDArray[np.uint8], detections: Detections) -> npt.NDArray[np.uint8]:
    """A copy of ``image`` uint8 [height, width, 3] BGR with the boxes drawn, the best on top.

    Each box has a dark rim against light ground. A box narrower than its label shows the score alone; in
    pictures of one class the colour already says the rest.
    """
    picture = np.ascontiguousarray(image).copy()
    relative = min(picture.shape[:2]) / REFERENCE_SIDE
    thickness = max(2, round(2 * relative))
    font_scale = min(3.0, max(0.35, 0.5 * relative))
    corners = np.round(detections.boxes).astype(int).tolist()
    rows = list(zip(corners, detections.scores.tolist(), detections.labels.tolist(), strict=True))
    for (x1, y1, x2, y2), _, label in reversed(rows):
        cv2.rectangle(picture, (x1, y1), (x2, y2), BLACK, thickness + 2)
        cv2.rectangle(picture, (x1, y1), (x2, y2), color_of(label), thickness)
    # Labels after all boxes: no line crosses a number.
    for (x1, y1, x2, _), score, label in reversed(rows):
        text = f"{detections.class_names[label]} {score:.2f}"
        if _text_size(text, font_scale)[0] > x2 - x1:
            text = f"{score:.2f}"
        _draw_label(picture, text, (x1, y1), color_of(label), font_scale)
    return picture


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
