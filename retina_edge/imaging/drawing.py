"""Boxes and labels that stand out from both light and dark images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from engines.core.letterbox import BgrImage

Color = tuple[int, int, int]

# Okabe and Ito, "Color Universal Design" (2008): distinguishable with any kind of color vision. BGR, without black.
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
# Shorter image side, in pixels, at which lines are 2 pixels thick and text has half the font's size.
REFERENCE_SIDE = 720
# Text is black on colors with more luma than this, else white.
BRIGHT_LUMA = 110


def color_of(label: int) -> Color:
    """Return the color of a class, BGR. The color is the same in every run and every image.

    Examples:
        >>> color_of(0)
        (0, 159, 230)
    """
    return PALETTE[label % len(PALETTE)]


def line_thickness(image: BgrImage) -> int:
    """Return the thickness of lines in an image, in pixels.

    Examples:
        >>> line_thickness(np.zeros((1080, 1920, 3), np.uint8))
        3
    """
    return max(2, round(2 * _shorter_side(image) / REFERENCE_SIDE))


def label_texts(names: Sequence[str], scores: npt.NDArray[np.float32]) -> list[tuple[str, str]]:
    """Return the text to draw at each box, and a short text for a narrow box.

    Examples:
        >>> label_texts(["tree"], np.array([0.723], np.float32))
        [('tree 0.72', '0.72')]
    """
    return [(f"{name} {score:.2f}", f"{score:.2f}") for name, score in zip(names, scores.tolist(), strict=True)]


def draw_boxes(
    image: BgrImage,
    boxes: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    texts: Sequence[tuple[str, str]],
) -> None:
    """Draw boxes into an image, the first one on top.

    Each box has a dark rim, which stands out from light areas. Labels are drawn after all boxes, so that no line
    crosses a number.

    Args:
        image: image to draw into, uint8 [height, width, 3], BGR.
        boxes: float32 [N, 4], xyxy, pixels.
        labels: int32 [N], indices of classes; they choose the colors.
        texts: for each box, its text and a short text to use if the box is too narrow.

    Examples:
        >>> image = np.zeros((720, 1280, 3), np.uint8)
        >>> box = np.array([[100, 100, 400, 300]], np.float32)
        >>> draw_boxes(image, box, np.array([0], np.int32), [("tree 0.72", "0.72")])
        >>> image[200, 100].tolist()
        [0, 159, 230]
    """
    thickness, scale = line_thickness(image), _font_scale(image)
    corners = np.round(boxes).astype(int).tolist()
    rows = list(zip(corners, labels.tolist(), texts, strict=True))
    for (x1, y1, x2, y2), label, _ in reversed(rows):
        cv2.rectangle(image, (x1, y1), (x2, y2), BLACK, thickness + 2)
        cv2.rectangle(image, (x1, y1), (x2, y2), color_of(label), thickness)
    for (x1, y1, x2, _), label, (text, short) in reversed(rows):
        narrow = _text_size(text, scale)[0] > x2 - x1
        draw_label(image, short if narrow else text, (x1, y1), color_of(label))


def draw_label(image: BgrImage, text: str, corner: tuple[int, int], color: Color) -> None:
    """Draw text on a colored background above ``corner`` (x, y). Labels that would leave the image are moved inside.

    Examples:
        >>> image = np.zeros((720, 1280, 3), np.uint8)
        >>> draw_label(image, "gate: 3 inside", (0, 0), WHITE)
        >>> image[0, 0].tolist()
        [255, 255, 255]
    """
    scale = _font_scale(image)
    box_width, box_height = label_size(image, text)
    left = max(0, min(corner[0], image.shape[1] - box_width))
    top = max(0, min(corner[1] - box_height, image.shape[0] - box_height))
    cv2.rectangle(image, (left, top), (left + box_width - 1, top + box_height - 1), color, cv2.FILLED)
    pad = _padding(scale)
    origin = (left + pad, top + pad + _text_size(text, scale)[1])
    text_color = BLACK if _luma(color) > BRIGHT_LUMA else WHITE
    cv2.putText(image, text, origin, FONT, scale, text_color, max(1, round(2 * scale)), cv2.LINE_AA)


def label_size(image: BgrImage, text: str) -> tuple[int, int]:
    """Return the width and height that ``draw_label`` gives a label, in pixels.

    Examples:
        >>> width, height = label_size(np.zeros((720, 1280, 3), np.uint8), "in")
        >>> 10 < width < 40, 10 < height < 30
        (True, True)
    """
    scale = _font_scale(image)
    width, height, baseline = _text_size(text, scale)
    return width + 2 * _padding(scale), height + baseline + 2 * _padding(scale)


def _padding(scale: float) -> int:
    return max(1, round(4 * scale))


def _font_scale(image: BgrImage) -> float:
    return min(3.0, max(0.35, 0.5 * _shorter_side(image) / REFERENCE_SIDE))


def _shorter_side(image: BgrImage) -> int:
    height, width, _ = image.shape
    return min(int(height), int(width))


def _text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Return width, height above the baseline and depth below it, in pixels."""
    (width, height), baseline = cv2.getTextSize(text, FONT, scale, max(1, round(2 * scale)))
    return width, height, baseline


def _luma(color: Color) -> float:
    """Return the ITU-R BT.601 luma of a BGR color, 0 to 255."""
    return 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]
