"""The agreement of two detectors, on hand-made detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.agreement import FrameDetections, agreement

Boxes = Sequence[Sequence[float]]
BOXES: Boxes = [[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 50, 260]]


def detections(
    boxes: Boxes = BOXES,
    scores: tuple[float, ...] = (0.9, 0.5, 0.1),
    labels: tuple[int, ...] = (1, 2, 1),
) -> FrameDetections:
    return FrameDetections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


NOTHING = detections([], (), ())


def test_an_empty_set_agrees_only_with_an_empty_set() -> None:
    assert agreement(NOTHING, NOTHING) == 1
    assert agreement(NOTHING, detections()) == agreement(detections(), NOTHING) == 0


def test_order_does_not_matter() -> None:
    reversed_order = detections(BOXES[::-1], (0.1, 0.5, 0.9), (1, 2, 1))
    assert agreement(detections(), reversed_order) == agreement(detections(), detections()) == 1


@pytest.mark.parametrize(
    "other",
    [
        detections([[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 50, 268]]),  # IoU 60 / 68
        detections(labels=(1, 2, 3)),
        detections(scores=(0.9, 0.5, 0.13)),
    ],
    ids=["place", "label", "score"],
)
def test_another_place_label_or_score_is_another_detection(other: FrameDetections) -> None:
    assert agreement(detections(), other) == pytest.approx(2 / 3)


def test_small_differences_are_allowed() -> None:
    other = detections([[0, 0, 100, 104], [202, 0, 300, 100], [0, 200, 50, 262]], (0.91, 0.49, 0.11))
    assert agreement(detections(), other) == 1


def test_each_detection_matches_once_and_a_surplus_lowers_the_agreement() -> None:
    twice = detections([BOXES[0], BOXES[0]], (0.9, 0.9), (1, 1))
    once = detections([BOXES[0]], (0.9,), (1,))
    assert agreement(twice, once) == agreement(once, twice) == 0.5
    assert agreement(twice, twice) == 1


def test_neighbors_do_not_take_each_others_partner() -> None:
    pair = detections([BOXES[0], BOXES[0]], (0.50, 0.515), (1, 1))
    other = detections([BOXES[0], BOXES[0]], (0.515, 0.53), (1, 1))
    assert agreement(pair, other) == 1


def test_boxes_without_an_area_agree_by_their_corners() -> None:
    edge = detections([[10, 720, 90, 720]], (0.9,), (1,))
    assert agreement(edge, detections([[10.4, 720, 90, 720]], (0.9,), (1,))) == 1
    assert agreement(edge, detections([[12, 720, 90, 720]], (0.9,), (1,))) == 0
