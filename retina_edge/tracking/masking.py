"""Masks: detections in areas that are ignored are dropped before tracking."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from retina_edge.detections import Detections
from retina_edge.tracking.region_counter import Anchor, anchor_point
from retina_edge.tracking.zones import Mask


def outside_masks(
    detections: Detections, masks: Sequence[Mask], *, size: tuple[int, int], anchor: Anchor = "bottom"
) -> Detections:
    """Return the detections whose anchor point is in no mask. The border belongs to the mask.

    Args:
        detections: the detections, with boxes in frame pixels.
        masks: the masks; one with classes ignores only these.
        size: (height, width) of the frame, pixels.
        anchor: point of a box that is the position of its object.

    Examples:
        >>> boxes, scores = np.array([[10, 10, 20, 20], [60, 10, 70, 20]], np.float32), np.ones(2, np.float32)
        >>> detections = Detections(boxes, scores, np.zeros(2, np.int32), ("tree",), (1,))
        >>> left = Mask("left half", ((0, 0), (0.5, 0), (0.5, 1), (0, 1)))
        >>> outside_masks(detections, [left], size=(100, 100)).boxes.tolist()
        [[60.0, 10.0, 70.0, 20.0]]
    """
    if not masks:
        return detections
    keep = np.ones(len(detections), bool)
    points = [anchor_point(box, anchor) for box in detections.boxes.tolist()]
    for mask in masks:
        polygon = mask.in_pixels(size)
        for row, (name, point) in enumerate(zip(detections.names, points, strict=True)):
            if keep[row] and (not mask.classes or name in mask.classes):
                keep[row] = cv2.pointPolygonTest(polygon, point, measureDist=False) < 0
    return detections[keep]
