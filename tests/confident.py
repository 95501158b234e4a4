"""Comparison of the detections that two implementations of the same model are sure of.

Two letterboxes or two precisions differ a little, and a detection near the score threshold may be missing in one of
them. So only confident detections are compared, and with tolerances.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Only expected detections that score at least this are compared.
SURE = 0.5

Array = npt.NDArray[np.floating[Any]]


def compare_confident(
    boxes: Array, scores: Array, expected_boxes: Array, expected_scores: Array, *, pixels: float, score: float
) -> int:
    """Check that every confident detection of one image was found, at the same position and with the same score.

    Args:
        boxes: boxes that were found, [N, 4], xyxy; rows past the detections are zeros.
        scores: scores that were found, [N].
        expected_boxes: expected boxes, [M, 4].
        expected_scores: expected scores, [M].
        pixels: largest difference of a coordinate is less than this.
        score: largest difference of a score is less than this.

    Returns:
        The number of detections that were compared.
    """
    sure = expected_scores >= SURE
    for box, expected in zip(expected_boxes[sure], expected_scores[sure], strict=True):
        distance = np.abs(boxes - box).max(axis=1)
        nearest = int(distance.argmin())
        assert distance[nearest] < pixels
        assert abs(scores[nearest] - expected) < score
    return int(sure.sum())
