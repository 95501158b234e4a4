"""Whether two detectors found the same: literal cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.agreement import Found, agreement

Boxes = Sequence[Sequence[float]]
BOXES: Boxes = [[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 50, 260]]


def found(
    boxes: Boxes = BOXES,
    scores: tuple[float, ...] = (0.9, 0.5, 0.1),
    labels: tuple[int, ...] = (1, 2, 1),
) -> Found:
    return Found(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64))


NOTHING = found([], (), ())


def test_nothing_agrees_with_nothing_only() -> None:
    assert agreement(NOTHING, NOTHING) == 1
    assert agreement(NOTHING, found()) == agreement(found(), NOTHING) == 0


def test_order_does_not_matter() -> None:
    turned = found(BOXES[::-1], (0.1, 0.5, 0.9), (1, 2, 1))
    assert agreement(found(), turned) == agreement(found(), found()) == 1


@pytest.mark.parametrize(
    "other",
    [
        found([[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 50, 268]]),  # IoU 60 / 68
        found(labels=(1, 2, 3)),
        found(scores=(0.9, 0.5, 0.13)),
    ],
    ids=["place", "label", "score"],
)
def test_another_place_label_or_score_is_another_detection(other: Found) -> None:
    assert agreement(found(), other) == pytest.approx(2 / 3)


def test_small_differences_are_allowed() -> None:
    other = found([[0, 0, 100, 104], [202, 0, 300, 100], [0, 200, 50, 262]], (0.91, 0.49, 0.11))
    assert agreement(found(), other) == 1


def test_each_detection_is_used_once_and_the_surplus_counts() -> None:
    twice = found([BOXES[0], BOXES[0]], (0.9, 0.9), (1, 1))
    once = found([BOXES[0]], (0.9,), (1,))
    assert agreement(twice, once) == agreement(once, twice) == 0.5
    assert agreement(twice, twice) == 1


def test_neighbors_do_not_take_each_others_partner() -> None:
    pair = found([BOXES[0], BOXES[0]], (0.50, 0.515), (1, 1))
    other = found([BOXES[0], BOXES[0]], (0.515, 0.53), (1, 1))
    assert agreement(pair, other) == 1


def test_boxes_without_an_area_agree_by_their_corners() -> None:
    edge = found([[10, 720, 90, 720]], (0.9,), (1,))
    assert agreement(edge, found([[10.4, 720, 90, 720]], (0.9,), (1,))) == 1
    assert agreement(edge, found([[12, 720, 90, 720]], (0.9,), (1,))) == 0
