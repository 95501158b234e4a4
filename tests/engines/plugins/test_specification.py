"""Tests of the specification with small cases calculated by hand. tests/export/test_functions.py uses torchvision."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms
from torchvision.ops import nms as torchvision_nms

from engines.plugins.parameters import Parameters, pack_parameters, unpack_parameters
from engines.plugins.specification import Candidates, decode, nms, postprocess, sigmoid
from tests.export.heads import Heads, make_contract, random_heads, specification

NOTHING = -100.0


def parameters_of(threshold: float = 0.05, width: int = 100, height: int = 80) -> Parameters:
    """Return parameters of two levels with one anchor each.

    The anchor of the first level is 20 wide and 10 high, with strides of 8. The anchor of the second level is 40 wide
    and 40 high, with strides of 20 (y) and 25 (x).
    """
    return Parameters(
        logit_threshold=np.float32(math.log(threshold / (1 - threshold))),
        iou_threshold=np.float32(0.5),
        delta_clip=np.float32(math.log(1000 / 16)),
        input_width=np.float32(width),
        input_height=np.float32(height),
        agnostic=False,
        cell_anchors=np.array([[[-10, -5, 10, 5]], [[-20, -20, 20, 20]]], np.float32),
        strides=np.array([[8, 8], [25, 20]], np.float32),
    )


def heads_of(num_classes: int = 1) -> Heads:
    """Return heads of levels with 4×5 and 2×2 positions, without any candidates."""
    cls_logits = [np.full((num_classes, h, w), NOTHING, np.float32) for h, w in ((4, 5), (2, 2))]
    return Heads(cls_logits, [np.zeros((4, h, w), np.float32) for h, w in ((4, 5), (2, 2))])


def decoded(heads: Heads, *, num_classes: int = 1, top_k: int = 10, threshold: float = 0.05) -> Candidates:
    return decode(*heads, parameters_of(threshold), num_classes=num_classes, top_k=top_k)


def candidates_of(boxes: Sequence[Sequence[float]], labels: list[int] | None = None) -> Candidates:
    """Return candidates with the given boxes, in the same order."""
    count = len(boxes)
    return Candidates(
        np.linspace(3, 1, count).astype(np.float32),
        np.array(boxes, np.float32).reshape(count, 4),
        np.array(labels or [0] * count, np.int32),
    )


def kept(candidates: Candidates, iou_threshold: float = 0.5, max_detections: int = 10) -> list[int]:
    return [int(i) for i in nms(candidates, np.float32(iou_threshold), max_detections)]


def test_heads_without_objects_give_no_candidates() -> None:
    candidates = decoded(heads_of())
    assert [len(part) for part in candidates] == [0, 0, 0]
    assert kept(candidates) == []


def test_zero_deltas_give_the_anchor() -> None:
    heads = heads_of()
    heads.cls_logits[0][0, 2, 3] = 1
    np.testing.assert_array_equal(decoded(heads).boxes, [[14, 11, 34, 21]])


def test_strides_differ_by_axis_and_level() -> None:
    heads = heads_of()
    heads.cls_logits[1][0, 1, 1] = 1
    np.testing.assert_array_equal(decoded(heads).boxes, [[5, 0, 45, 40]])


def test_deltas_move_by_the_anchors_sides_and_scale_by_exp() -> None:
    heads = heads_of()
    heads.cls_logits[0][0, 3, 4] = 1
    heads.box_deltas[0][:, 3, 4] = [0.5, -0.25, math.log(2), math.log(0.5)]
    # Center (32, 24) + (0.5 · 20, -0.25 · 10), sides 40 and 5.
    np.testing.assert_allclose(decoded(heads).boxes, [[22, 19, 62, 24]], rtol=0, atol=1e-5)


def test_a_size_delta_is_clipped() -> None:
    heads = heads_of()
    heads.cls_logits[0][0, 0, 0] = 1
    heads.box_deltas[0][:, 0, 0] = [0, 0, -20, 50]
    np.testing.assert_allclose(decoded(heads).boxes, [[0, 0, 0, 80]], rtol=0, atol=1e-5)
    heads.box_deltas[0][:, 0, 0] = [10, 0, 20, 50]
    huge = decode(*heads, parameters_of(width=2000, height=2000), num_classes=1, top_k=10)
    # Center (200, 0), sides clipped to 1000/16 times those of the anchor: 1250 and 625.
    np.testing.assert_allclose(huge.boxes, [[0, 0, 825, 312.5]], rtol=0, atol=1e-3)


def test_channels_are_anchor_major() -> None:
    contract = make_contract(num_classes=5, num_levels=1)
    height, width = contract.levels[0].feature_size
    cls_logits = np.full((1, 6 * 5, height, width), NOTHING, np.float32)
    cls_logits[0, 4 * 5 + 2, 3, 6] = 1
    result = specification(contract, Heads([cls_logits], [np.zeros((1, 24, height, width), np.float32)]))
    assert (result.num_detections[0], result.labels[0, 0]) == (1, 2)
    # The fifth anchor has ratio 2 and the first size, 24; its center is (96, 48).
    np.testing.assert_array_equal(result.boxes[0, 0], [88, 31, 104, 65])


def test_a_logit_equal_to_the_threshold_does_not_pass() -> None:
    heads = heads_of()
    threshold = parameters_of(0.3).logit_threshold
    heads.cls_logits[0][0, 0, :3] = [threshold, np.nextafter(threshold, np.float32(9)), np.nan]
    assert decoded(heads, threshold=0.3).logits.tolist() == [np.nextafter(threshold, np.float32(9))]


def test_equal_logits_are_ordered_by_level_then_by_flat_index() -> None:
    heads = heads_of(num_classes=2)
    heads.cls_logits[1][0, 0, 0] = 1
    heads.cls_logits[0][1, 0, 0] = 1
    heads.cls_logits[0][0, 3, 4] = 1
    heads.cls_logits[0][0, 0, 1] = 2
    candidates = decoded(heads, num_classes=2)
    assert candidates.logits.tolist() == [2, 1, 1, 1]
    assert candidates.labels.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(candidates.boxes[1:, 2], [42, 10, 20])


def test_zeros_of_both_signs_are_equal() -> None:
    heads = heads_of()
    heads.cls_logits[0][0, 0, :3] = [-0.0, 0.0, -0.0]
    np.testing.assert_array_equal(decoded(heads, top_k=2).boxes[:, 2], [10, 18])


def test_top_k_limits_each_level() -> None:
    heads = heads_of()
    for level in heads.cls_logits:
        level.reshape(-1)[:] = np.arange(level.size)
    candidates = decoded(heads, top_k=3)
    assert candidates.logits.tolist() == [19, 18, 17, 3, 2, 1]


def test_suppression_is_greedy() -> None:
    """The first box suppresses the second, so the second cannot suppress the third, although they overlap as much."""
    boxes: list[list[float]] = [[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]
    assert kept(candidates_of(boxes)) == [0, 2]


def test_classes_do_not_suppress_each_other() -> None:
    boxes: list[list[float]] = [[0, 0, 10, 10]] * 4
    assert kept(candidates_of(boxes, [1, 0, 1, 2])) == [0, 1, 3]


def test_classes_suppress_each_other_in_class_agnostic_nms() -> None:
    boxes: list[list[float]] = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 4], [0, 0, 10, 10]]
    candidates = candidates_of(boxes, [1, 0, 1, 2])
    assert nms(candidates, np.float32(0.5), 10, agnostic=True).tolist() == [0, 2]


def test_an_iou_equal_to_the_threshold_does_not_suppress() -> None:
    boxes: list[list[float]] = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.01]]
    assert kept(candidates_of(boxes[:2])) == [0, 1]
    assert kept(candidates_of([boxes[0], boxes[2]])) == [0]


def test_touching_boxes_do_not_overlap() -> None:
    assert kept(candidates_of([[0.0, 0, 10, 10], [10, 0, 20, 10]]), iou_threshold=0.0) == [0, 1]


def test_empty_boxes_suppress_nothing() -> None:
    """An IoU of 0/0 is not above any threshold."""
    assert kept(candidates_of([[5.0, 5, 5, 5]] * 3), iou_threshold=0.0) == [0, 1, 2]


def test_the_best_max_detections_are_kept() -> None:
    boxes = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(5)]
    assert kept(candidates_of(boxes), max_detections=3) == [0, 1, 2]


@pytest.mark.parametrize("iou_threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_that_of_torchvision(seed: int, iou_threshold: float) -> None:
    """There are more than 1,000 boxes, because with fewer, torchvision shifts the boxes of each class apart."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 200, (1200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 80, (1200, 2))], axis=1).astype(np.float32)
    labels = rng.integers(0, 4, 1200).astype(np.int32)
    logits = np.linspace(4, -4, 1200).astype(np.float32)
    candidates, tensors = Candidates(logits, boxes, labels), tuple(map(torch.from_numpy, (boxes, logits, labels)))
    found = nms(candidates, np.float32(iou_threshold), 1200)
    np.testing.assert_array_equal(found, batched_nms(*tensors, iou_threshold).numpy())
    agnostic = nms(candidates, np.float32(iou_threshold), 1200, agnostic=True)
    np.testing.assert_array_equal(agnostic, torchvision_nms(*tensors[:2], iou_threshold).numpy())
    assert 50 < len(agnostic) < len(found) < 1200


def test_a_batch_gives_the_results_of_its_single_images() -> None:
    contract = make_contract()
    heads = random_heads(contract, seed=0, batch=3)
    together = specification(contract, heads)
    for n in range(3):
        for found, expected in zip(together, specification(contract, heads.image(n)), strict=True):
            np.testing.assert_array_equal(found[n : n + 1], expected)


def test_reordered_classes_give_the_same_boxes_with_the_new_labels() -> None:
    contract = make_contract(num_classes=4)
    heads = random_heads(contract, seed=1)
    order = np.array([2, 0, 3, 1])
    renumbered = [
        level.reshape(2, -1, 4, *level.shape[2:])[:, :, order].reshape(level.shape) for level in heads.cls_logits
    ]
    before, after = specification(contract, heads), specification(contract, Heads(renumbered, heads.box_deltas))
    np.testing.assert_array_equal(before.boxes, after.boxes)
    assert before.num_detections.tolist() == [40, 40]
    np.testing.assert_array_equal(before.labels, order[after.labels])


def test_results_have_the_documented_dtypes_and_shapes() -> None:
    contract = make_contract(max_detections=7)
    result = postprocess(
        *random_heads(contract, seed=2, batch=3),
        pack_parameters(contract),
        num_classes=3,
        top_k=5,
        max_detections=7,
    )
    assert [(part.dtype.name, part.shape) for part in result] == [
        ("int32", (3,)),
        ("float32", (3, 7, 4)),
        ("float32", (3, 7)),
        ("int32", (3, 7)),
    ]


def test_unpacked_parameters_have_anchors_for_every_level() -> None:
    contract = make_contract(num_levels=5)
    assert unpack_parameters(pack_parameters(contract), 5).cell_anchors.shape == (5, 6, 4)


def test_sigmoid_of_large_and_infinite_logits() -> None:
    found = sigmoid(np.array([-math.inf, -200, 0, 200, math.inf], np.float32))
    np.testing.assert_array_equal(found, np.array([0, 0, 0.5, 1, 1], np.float32))
