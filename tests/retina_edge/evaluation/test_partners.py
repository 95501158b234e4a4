"""The agreement of two detectors, on hand-made boxes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from retina_edge.evaluation.partners import Partners, agreement, find_partners

BOXES = np.array([[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 50, 260]], np.float32)
CLASSES = ["car", "tree", "car"]
NOTHING = np.zeros((0, 4), np.float32)


def found(boxes: npt.NDArray[np.float32], classes: list[str]) -> Partners:
    return find_partners(BOXES, CLASSES, boxes, classes)


def test_equal_boxes_are_partners_in_any_order() -> None:
    partners = found(BOXES[::-1], CLASSES[::-1])
    assert partners.pairs.tolist() == [[0, 2], [1, 1], [2, 0]]
    assert agreement([partners]) == (1, 0)


def test_without_boxes_there_is_no_share_or_no_displacement() -> None:
    assert agreement([]) == agreement([find_partners(NOTHING, [], BOXES, CLASSES)]) == (None, None)
    assert agreement([found(NOTHING, [])]) == (0, None)


def test_one_swap_of_nms_barely_changes_the_agreement() -> None:
    """One of a hundred boxes is 40 pixels away: the largest displacement is 40, the mean 0.4."""
    corners = np.stack([np.arange(100) * 300.0, np.zeros(100)], axis=1)
    boxes = np.concatenate([corners, corners + 100], axis=1).astype(np.float32)
    moved = boxes.copy()
    moved[17, :2] += 30
    moved[17, 3] -= 40  # an IoU below 0.5
    moved[18, 0] += 40
    partners = find_partners(boxes, ["car"] * 100, moved, ["car"] * 100)
    assert partners.displacements.max() == 40
    assert agreement([partners]) == pytest.approx((0.99, 40 / 99))


def test_another_class_or_place_is_no_partner() -> None:
    partners = found(np.array([BOXES[0], [260, 0, 360, 100], BOXES[2]], np.float32), ["tree", "tree", "car"])
    assert partners.pairs.tolist() == [[2, 2]]
    assert agreement([partners])[0] == pytest.approx(1 / 3)


def test_a_box_has_one_partner_and_the_nearest_goes_first() -> None:
    twice = np.array([[0, 0, 100, 100], [0, 0, 100, 90]], np.float32)
    once = np.array([[0, 0, 100, 91]], np.float32)
    assert find_partners(twice, ["car"] * 2, once, ["car"]).pairs.tolist() == [[1, 0]]
    assert find_partners(once, ["car"], twice, ["car"] * 2).pairs.tolist() == [[0, 1]]


def test_boxes_without_an_area_are_compared_by_their_corners() -> None:
    edge = np.array([[10, 720, 90, 720]], np.float32)
    assert len(find_partners(edge, ["car"], edge + np.float32(0.4), ["car"]).pairs) == 1
    assert len(find_partners(edge, ["car"], edge + 2, ["car"]).pairs) == 0


def test_several_images_are_pooled() -> None:
    partners = [found(BOXES + 2, CLASSES), found(BOXES[:1], CLASSES[:1])]
    assert agreement(partners) == pytest.approx((4 / 6, 1.5))
