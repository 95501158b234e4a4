"""The quality focal loss against the formula of its paper, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_edge.training.paired_iou import paired_iou
from retina_edge.training.quality_focal_loss import quality_focal_loss
from tests.retina_edge.training.scenes import iou

PAIRS = st.lists(st.tuples(st.floats(-12, 12), st.floats(0, 1)), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_it_equals_the_formula(pairs: list[tuple[float, float]]) -> None:
    expected = 0.0
    for logit, quality in pairs:
        score = 1 / (1 + math.exp(-logit))
        cross_entropy = (1 - quality) * math.log(1 - score) + quality * math.log(score)
        expected += -(abs(quality - score) ** 2) * cross_entropy
    logits, qualities = torch.tensor(pairs).T[:, :, None]
    assert quality_focal_loss(logits, qualities).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_it_is_zero_at_the_quality_and_has_its_minimum_there() -> None:
    quality = torch.tensor([[0.2, 0.5, 0.9]])
    logits = quality.logit().requires_grad_()
    loss = quality_focal_loss(logits, quality)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-6, rtol=0)


def test_extreme_scores_have_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[-300.0, 300.0, -300.0, 300.0]], requires_grad=True)
    loss = quality_focal_loss(logits, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(600)  # two scores are right, and two are wrong by 300 each
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 40)] * 4), min_size=2, max_size=2))
def test_the_iou_of_a_pair_is_that_of_a_loop(corners: list[tuple[int, int, int, int]]) -> None:
    boxes = [[x, y, x + w + 1, y + h + 1] for x, y, w, h in corners]
    one, other = (torch.tensor(box, dtype=torch.float32) for box in boxes)
    assert paired_iou(one, other).item() == pytest.approx(iou(boxes[0], boxes[1]), rel=1e-6)
