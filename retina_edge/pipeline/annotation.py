"""Annotated frames: detections, tracks, zones and lines drawn into a copy of the frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.imaging.drawing import (
    BLACK,
    WHITE,
    draw_boxes,
    draw_label,
    label_size,
    label_texts,
    line_thickness,
)
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.zones import Line, Zone

# Opacity of the white tint over a zone.
TINT = 0.18
# The word at the tip of a line's arrow, as in the counts.
IN = "in"


def annotate(
    image: BgrImage,
    detections: Detections,
    *,
    tracks: npt.NDArray[np.int64] | None = None,
    tallies: Sequence[Tally] = (),
) -> BgrImage:
    """Return a copy of a frame with its detections and regions drawn into it. The best detection is drawn on top.

    Args:
        image: the frame, uint8 [height, width, 3], BGR; not modified.
        detections: the detections, with boxes in frame pixels.
        tracks: track id of each detection, int64 [N]; negative for a detection without a track. Track 12 is drawn as
            #12 before the class; a narrow box shows only #12.
        tallies: zones and lines with their counts. The arrow of a line points to the side that counts as "in", and
            has this word at its tip. In a zone with a limit on the dwell time, a track shows its dwell time.

    Examples:
        >>> frame = np.zeros((120, 160, 3), np.uint8)
        >>> box, score = np.array([[20, 40, 100, 110]], np.float32), np.array([0.9], np.float32)
        >>> detections = Detections(box, score, np.array([0], np.int32), ("tree",), (1,))
        >>> annotated = annotate(frame, detections)
        >>> bool(annotated.any()), bool(frame.any())
        (True, False)
    """
    annotated = np.ascontiguousarray(image).copy()
    thickness = line_thickness(annotated)
    for tally in tallies:
        _draw_region(annotated, tally, thickness)
    draw_boxes(annotated, detections.boxes, detections.labels, _texts(detections, tracks, tallies))
    for tally in tallies:
        if isinstance(tally.region, Line):
            _draw_direction(annotated, tally.region, thickness)
        draw_label(annotated, _counts_text(tally), _label_position(tally, annotated.shape[:2]), BLACK)
    return annotated


def _texts(
    detections: Detections, tracks: npt.NDArray[np.int64] | None, tallies: Sequence[Tally]
) -> list[tuple[str, str]]:
    texts = label_texts(detections.names, detections.scores)
    if tracks is None:
        return texts
    rows = zip(texts, tracks.tolist(), strict=True)
    dwell = {track: f" {seconds:.0f} s" for track, seconds in _dwell_times(tallies).items()}
    return [
        (f"#{track} {text}{dwell.get(track, '')}", f"#{track}") if track >= 0 else (text, short)
        for (text, short), track in rows
    ]


def _dwell_times(tallies: Sequence[Tally]) -> dict[int, float]:
    """Return the dwell time in seconds by track, the longest one of all zones with a limit."""
    longest: dict[int, float] = {}
    for tally in tallies:
        if "dwelled" in tally.by_class:
            for visit in tally.visits:
                longest[visit.track] = max(visit.seconds, longest.get(visit.track, 0.0))
    return longest


def _draw_region(image: BgrImage, tally: Tally, thickness: int) -> None:
    """Draw a zone with its tint, or a line. White with a black rim differs from all class colors."""
    points = np.round(tally.region.in_pixels(image.shape[:2])).astype(np.int32)
    if isinstance(tally.region, Zone):
        left, top, across, down = cv2.boundingRect(points)
        part = image[top : top + down, left : left + across]
        if part.size:
            tinted = part.copy()
            cv2.fillPoly(tinted, [points - (left, top)], WHITE)
            cv2.addWeighted(tinted, TINT, part, 1 - TINT, 0, dst=part)
        for color, width in ((BLACK, thickness + 2), (WHITE, thickness)):
            cv2.polylines(image, [points], True, color, width, cv2.LINE_AA)
        return
    for color, width in ((BLACK, thickness + 2), (WHITE, thickness)):
        cv2.line(image, _pixel(points[0]), _pixel(points[1]), color, width, cv2.LINE_AA)


def _draw_direction(image: BgrImage, line: Line, thickness: int) -> None:
    """Draw an arrow from the middle of a line to the side that counts as "in", and this word at its tip."""
    start, end = line.in_pixels(image.shape[:2])
    along = (end - start) / max(1.0, float(np.hypot(*(end - start))))
    middle, inward = (start + end) / 2, np.array((-along[1], along[0]))
    tip = middle + 16 * thickness * inward
    for color, width in ((BLACK, thickness + 2), (WHITE, thickness)):
        cv2.arrowedLine(image, _pixel(middle), _pixel(tip), color, width, cv2.LINE_AA, tipLength=0.4)
    size = np.array(label_size(image, IN))
    # Beyond the tip by half the label's extent in this direction, so that the label does not cover the arrow.
    center = tip + (thickness + float(np.abs(inward) @ size) / 2) * inward
    draw_label(image, IN, _pixel(center + size * (-0.5, 0.5)), BLACK)


def _counts_text(tally: Tally) -> str:
    return f"{tally.region.name}: " + ", ".join(f"{count} {name}" for name, count in tally.counts.items())


def _label_position(tally: Tally, size: tuple[int, int]) -> tuple[int, int]:
    """Return the lower left corner of the label: the highest point of a zone, or the start of a line."""
    points = tally.region.in_pixels(size)
    return _pixel(points[points[:, 1].argmin() if isinstance(tally.region, Zone) else 0])


def _pixel(point: npt.NDArray[Any]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
