"""The losses of distillation against values computed by hand and against NumPy's weighted covariance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retina_edge.training.distillation_losses import feature_loss, head_losses, object_weights

# Rounding of float32 in sums of a few hundred products, relative to 1.
ROUNDING = 1e-5


def logit(*scores: float) -> list[float]:
    return [math.log(score / (1 - score)) for score in scores]


def test_head_losses_equal_those_computed_by_hand() -> None:
    """Two images, one position, two anchors, two classes."""
    # Channels are anchor 0 class 0, anchor 0 class 1, anchor 1 class 0, anchor 1 class 1.
    taught = torch.tensor([logit(0.8, 0.2, 0.9, 0.1), logit(0.1, 0.1, 0.1, 0.2)]).view(2, 4, 1, 1)
    own = torch.tensor([logit(0.5, 0.2, 0.9, 0.5), logit(0.1, 0.5, 0.1, 0.2)]).view(2, 4, 1, 1)
    deltas = torch.zeros(2, 8, 1, 1)
    taught_deltas = deltas.clone()
    taught_deltas[0, :4, 0, 0] = torch.tensor([0.1, -0.2, 0.3, 0.0])  # anchor 0 of image 0: L1 distance 0.6
    taught_deltas[0, 4:, 0, 0] = 0.25  # anchor 1 of image 0: 1.0
    taught_deltas[1, 4:, 0, 0] = -0.5  # anchor 1 of image 1: 2.0
    logits, boxes = head_losses(([own], [deltas]), ([taught], [taught_deltas]), num_classes=2)
    # At p = 0.5 the cross entropy is ln 2 for each target. Image 0 differs by 0.3 and 0.4, image 1 by 0.4.
    # Squares of the best scores: image 0 has 0.64 + 0.81 = 1.45; image 1 has 0.01 + 0.04, which is raised to 1.
    assert logits.item() == pytest.approx(math.log(2) * (0.7 / 1.45 + 0.4 / 1) / 2, rel=ROUNDING)
    # Distances by square: (0.64 * 0.6 + 0.81 * 1.0) / 1.45 and 0.04 * 2.0 / 1.
    assert boxes.item() == pytest.approx(((0.384 + 0.81) / 1.45 + 0.08) / 2, rel=ROUNDING)


def test_head_losses_add_levels_before_they_divide() -> None:
    taught, own = (torch.full((1, 1, 1, 1), logit(score)[0]) for score in (0.8, 0.5))
    none = torch.zeros(1, 4, 1, 1)
    one, _ = head_losses(([own], [none]), ([taught], [none]), num_classes=1)
    two, _ = head_losses(([own] * 2, [none] * 2), ([taught] * 2, [none] * 2), num_classes=1)
    assert one.item() == pytest.approx(0.3 * math.log(2) / 1, rel=ROUNDING)  # 0.64 is raised to 1
    assert two.item() == pytest.approx(2 * 0.3 * math.log(2) / 1.28, rel=ROUNDING)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-2, 1.0, 1e3]))
def test_a_student_like_its_teacher_has_no_loss(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads = ([torch.randn(2, 6, 3, 5, generator=generator)], [torch.randn(2, 12, 3, 5, generator=generator)])
    assert [loss.item() for loss in head_losses(heads, heads, num_classes=2)] == [0, 0]
    features = [torch.randn(2, 4, 3, 5, generator=generator) * scale, torch.randn(2, 4, 2, 3, generator=generator)]
    boxes = [torch.tensor([[3.0, 2.0, 17.0, 9.0]]), torch.zeros(0, 4)]
    assert feature_loss(features, features, boxes, stride=8).item() == 0
    changed = [-3 * scale * level - 5 for level in features]  # a correlation of -1
    assert feature_loss(features, changed, boxes, stride=8).item() == pytest.approx(2, abs=1e-3)


def test_the_loss_of_features_is_one_minus_numpys_weighted_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = ((4, 6), (2, 3))
    own, taught = ([torch.randn(2, 3, *size, generator=generator) for size in sizes] for _ in range(2))
    boxes = [torch.tensor([[0.0, 0, 20, 11], [9, 9, 30, 30]]), torch.tensor([[40.0, 4, 47, 30]])]
    weights = object_weights(boxes, sizes[0], 8, 2)
    losses = []
    for one, other, weight in zip(own, taught, weights, strict=True):
        w = weight.numpy().ravel().astype(np.float64)
        for channel in range(3):
            # With aweights and bias, this is the covariance of positions that count by their weights.
            cov = np.cov(one[:, channel].numpy().ravel(), other[:, channel].numpy().ravel(), aweights=w, bias=True)
            losses.append(1 - cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1]))
    assert feature_loss(own, taught, boxes, stride=8).item() == pytest.approx(np.mean(losses), abs=ROUNDING)
    assert np.std(losses) > 0.1  # channels differ, so the mean does not hide one


def test_weights_cover_objects_and_the_smallest_one_counts() -> None:
    """A box of 4x2 positions, and inside of it one of 1 position; a map of 4x6 positions of 8 pixels."""
    boxes = [torch.tensor([[0.0, 0.0, 32.0, 16.0], [9.0, 8.0, 15.0, 16.0]])]
    (finest, coarse) = object_weights(boxes, (4, 6), stride=8, levels=2)
    # In positions, the small box has 0.75 * 1, which is raised to 1. Inverse areas: seven times 1/8, and once 1.
    objects = np.zeros((4, 6))
    objects[:2, :4], objects[1, 1] = 1 / 8, 1
    background = objects == 0
    expected = objects / objects.sum() * 2 / 3 + background / background.sum() / 3
    np.testing.assert_allclose(finest[0, 0], expected, atol=1e-7)
    # One level up, the map has 2x3 positions. The first holds the small box, the second the rest of the large one.
    coarse_expected = np.array([[2 / 3 * 1 / 1.125, 2 / 3 * 0.125 / 1.125, 1 / 12], [1 / 12, 1 / 12, 1 / 12]])
    np.testing.assert_allclose(coarse[0, 0], coarse_expected, atol=1e-7)


BOX = st.tuples(*[st.floats(0, 60, width=32)] * 2, *[st.floats(0.5, 60, width=32)] * 2)


@settings(max_examples=100, deadline=None)
@given(images=st.lists(st.lists(BOX, max_size=4), min_size=1, max_size=3), size=st.sampled_from([(8, 8), (5, 7)]))
def test_every_position_that_an_object_touches_counts_as_object(
    images: list[list[tuple[float, float, float, float]]], size: tuple[int, int]
) -> None:
    height, width = 8 * size[0], 8 * size[1]
    limits = torch.tensor([width, height, width, height])
    boxes = []
    for image in images:
        edges = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in image]).view(-1, 4)
        clipped = torch.minimum(edges, limits)
        boxes.append(clipped[(clipped[:, 2:] > clipped[:, :2]).all(1)])
    for level, weights in enumerate(object_weights(boxes, size, 8, 3)):
        stride = 8 * 2**level
        assert weights.sum().item() == pytest.approx(1, abs=ROUNDING)
        touched = torch.zeros(weights.shape, dtype=torch.bool)
        for n, image_boxes in enumerate(boxes):
            for x1, y1, x2, y2 in image_boxes.tolist():
                rows = slice(int(y1 // stride), math.ceil(y2 / stride))
                touched[n, 0, rows, slice(int(x1 // stride), math.ceil(x2 / stride))] = True
        if touched.any():
            share = 1.0 if touched.all() else 2 / 3
            assert weights[touched].sum().item() == pytest.approx(share, abs=ROUNDING)
            assert weights[touched].min() > 0
        else:
            assert weights.min() == weights.max()


def test_gradients_are_finite_where_features_are_constant() -> None:
    """A level with one position has no variance; a dead channel of the teacher teaches nothing."""
    own = [torch.randn(2, 2, 4, 4, requires_grad=True), torch.randn(1, 2, 1, 1, requires_grad=True)]
    taught = torch.randn(2, 2, 4, 4)
    taught[:, 1] = 3.0
    for student, teacher in ((own[0], taught), (own[1], torch.randn(1, 2, 1, 1))):
        boxes = [torch.zeros(0, 4)] * len(student)
        feature_loss([student], [teacher], boxes, stride=8).backward()  # type: ignore[no-untyped-call]
        assert isinstance(student.grad, Tensor)
        assert torch.isfinite(student.grad).all()
    assert own[0].grad is not None
    assert own[0].grad[:, 0].abs().max() > 1e-3
    assert own[0].grad[:, 1].abs().max() < 1e-6
