"""FreeAnchor's losses against the formulas of the paper, number by number in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from retina_edge.training import free_anchor
from retina_edge.training.free_anchor import free_anchor_losses
from tests.retina_edge.training.scenes import Grids, LargestTensor, grid_anchors, iou, scenes

CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))
# IoUs of an object with anchors this near to each other may be ordered otherwise in float32.
NEAR = 1e-6


def losses(
    logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor, box_loss: str = "l1"
) -> tuple[float, float]:
    background, objects = free_anchor_losses(logits, deltas, anchors, boxes, labels, box_coder=CODER, box_loss=box_loss)
    return background.item(), objects.item()


def decoded(anchor: list[float], delta: list[float]) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = anchor[0] + width / 2 + delta[0] * width, anchor[1] + height / 2 + delta[1] * height
    w, h = math.exp(delta[2]) * width, math.exp(delta[3]) * height
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def encoded(anchor: list[float], box: list[float]) -> list[float]:
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = (box[0] + box[2] - anchor[0] - anchor[2]) / 2, (box[1] + box[3] - anchor[1] - anchor[3]) / 2
    return [x / width, y / height, math.log((box[2] - box[0]) / width), math.log((box[3] - box[1]) / height)]


def smooth_l1(anchor: list[float], delta: list[float], box: list[float]) -> float:
    total = 0.0
    for got, expected, scale in zip(delta, encoded(anchor, box), (10, 10, 5, 5), strict=True):
        error = scale * abs(got - expected)
        total += error**2 / 2 / 0.11 if error < 0.11 else error - 0.11 / 2
    return 0.75 * total


def l1(anchor: list[float], delta: list[float], box: list[float]) -> float:
    pairs = zip(delta, encoded(anchor, box), (10, 10, 5, 5), strict=True)
    return 0.75 * sum(scale * abs(got - expected) for got, expected, scale in pairs)


def giou(anchor: list[float], delta: list[float], box: list[float]) -> float:
    found = decoded(anchor, delta)
    hull = math.prod(max(found[i + 2], box[i + 2]) - min(found[i], box[i]) for i in (0, 1))
    areas = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (found, box))
    union = areas / (1 + iou(found, box))
    return 1 - iou(found, box) + (hull - union) / hull


LOCATION: dict[str, Callable[..., float]] = {"l1": l1, "smooth_l1": smooth_l1, "giou": giou}


def formulas(
    logits: list[list[float]],
    deltas: list[list[float]],
    anchors: list[list[float]],
    boxes: list[list[float]],
    labels: list[int],
    box_loss: str,
) -> tuple[float, float]:
    """Return the two losses of the paper's detection customized loss, with alpha 0.5, gamma 2, t 0.6 and n 50."""
    scores = [[1 / (1 + math.exp(-logit)) for logit in row] for row in logits]
    size = min(50, len(anchors))
    objects = 0.0
    for box, label in zip(boxes, labels, strict=True):
        ranked = sorted(range(len(anchors)), key=lambda j: -iou(anchors[j], box))
        if size < len(anchors):
            assume(iou(anchors[ranked[size - 1]], box) - iou(anchors[ranked[size]], box) > NEAR)
        bag = [scores[j][label] * math.exp(-LOCATION[box_loss](anchors[j], deltas[j], box)) for j in ranked[:size]]
        weights = [1 / (1 - x) for x in bag]
        mean_max = sum(w * x for w, x in zip(weights, bag, strict=True)) / sum(weights)
        objects -= math.log(mean_max)
    overlaps = [[iou(decoded(a, d), box) for a, d in zip(anchors, deltas, strict=True)] for box in boxes]
    background = 0.0
    for j, row in enumerate(scores):
        for label, score in enumerate(row):
            detecting = 0.0
            for i, of_object in enumerate(overlaps):
                t1, t2 = 0.6, max(of_object)
                if labels[i] == label and of_object[j] > t1:
                    detecting = max(detecting, (of_object[j] - t1) / (t2 - t1))
            x = (1 - detecting) * score
            background -= x**2 * math.log(1 - x)
    count = max(1, len(boxes))
    return 0.5 * background / (size * count), 0.5 * objects / count


@settings(max_examples=100, deadline=None)
@given(scenes(max_boxes=4), st.sampled_from(list(LOCATION)), st.integers(0, 10**6))
def test_it_equals_the_formulas_of_the_paper(scene: tuple[Grids, Tensor, Tensor], box_loss: str, seed: int) -> None:
    _, anchors, boxes = scene
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (len(boxes),), generator=generator)
    logits = 2 * torch.randn(len(anchors), 3, generator=generator)
    # Some predicted boxes are good, so that some anchors detect their object.
    deltas = 0.3 * torch.randn(len(anchors), 4, generator=generator)
    if len(boxes):
        some = torch.rand(len(anchors), generator=generator) < 0.5
        good = CODER.encode_single(boxes[:1].expand(len(anchors), 4), anchors)
        deltas[some] = good[some].clamp(-3, 3) + 0.03 * torch.randn(len(anchors), 4, generator=generator)[some]
    expected = formulas(logits.tolist(), deltas.tolist(), anchors.tolist(), boxes.tolist(), labels.tolist(), box_loss)
    assert losses(logits, deltas, anchors, boxes, labels, box_loss) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_a_case_by_hand() -> None:
    """Two anchors of 8x8 with scores 0.5 and predicted boxes that are the anchors; the object is the first one.

    Positive bag: P(location) is 1 and exp(-0.75 * 10) = 0.00055 (the second anchor is off by one width, times the scale
    10). The likelihoods are 0.5 and 0.000277, the weights 2 and 1.000277, so the mean-max is
    (2 * 0.5 + 1.000277 * 0.000277) / 3.000277 = 0.333395, and half its negative logarithm 0.54921.
    Background: the first anchor detects the object with probability 1, so only the second counts:
    0.5² * -log(0.5) = 0.173287, times 1/2, divided by the two anchors of the bag: 0.043322.
    """
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8]])
    background, objects = losses(torch.zeros(2, 1), torch.zeros(2, 4), anchors, anchors[:1], torch.tensor([0]))
    assert objects == pytest.approx(0.54921, abs=1e-5)
    assert background == pytest.approx(0.043322, abs=1e-6)


def test_an_anchor_may_detect_an_object_of_one_class_and_be_background_for_another() -> None:
    """Its score of the object's class costs nothing, and that of the other class 0.25 * log(2) / 2."""
    anchor = torch.tensor([[0.0, 0, 8, 8]])
    for label in (0, 1):
        logits = torch.full((1, 2), -30.0)
        logits[0, label] = 0.0
        right, _ = losses(logits, torch.zeros(1, 4), anchor, anchor, torch.tensor([label]))
        wrong, _ = losses(logits, torch.zeros(1, 4), anchor, anchor, torch.tensor([1 - label]))
        assert right == pytest.approx(0, abs=1e-9)
        assert wrong == pytest.approx(0.25 * math.log(2) / 2)


def test_the_loss_of_the_background_does_not_move_boxes() -> None:
    """The probability that an anchor detects an object depends on its box, but has no gradient."""
    anchors = grid_anchors([(3, 3)], [(16.0, 16.0)])
    deltas = torch.full((9, 4), 0.05, requires_grad=True)
    background, objects = free_anchor_losses(
        torch.zeros(9, 1), deltas, anchors, anchors[4:5], torch.tensor([0]), box_coder=CODER, box_loss="giou"
    )
    assert objects.requires_grad
    assert not background.requires_grad


def test_without_objects_all_anchors_are_background() -> None:
    """Three anchors with a score of 0.5 each, bags of three: 3 * 0.25 * log(2) / 2 / 3."""
    anchors = grid_anchors([(1, 3)], [(8.0, 8.0)])
    logits, deltas = torch.zeros(3, 1, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    background, objects = free_anchor_losses(
        logits, deltas, anchors, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), box_coder=CODER, box_loss="l1"
    )
    assert background.item() == pytest.approx(0.25 * math.log(2) / 2)
    assert objects.item() == 0
    (background + objects).backward()  # type: ignore[no-untyped-call]
    assert deltas.grad is not None  # several processes wait for the gradient of every head
    assert (deltas.grad == 0).all()


@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou", "diou", "ciou"])
@pytest.mark.parametrize("logit", [-200.0, -4.6, 30.0, 200.0])
def test_certain_scores_and_far_boxes_have_finite_losses_and_gradients(box_loss: str, logit: float) -> None:
    """Likelihoods from exp(-1000) to exactly 1 in float32."""
    anchors = grid_anchors([(4, 4)], [(8.0, 8.0), (16.0, 16.0)])
    boxes = torch.tensor([[0.5, 4, 9, 12], [7.9, 7.9, 8.1, 8.1], [-3000, -3000, 3000, 3000], [4, 4, 12, 12]])
    extreme = 8.0 if box_loss == "ciou" else 60.0  # torchvision's ciou of a box without height is 0 / 0
    for delta in (0.0, -extreme, extreme):
        logits = torch.full((len(anchors), 2), logit, requires_grad=True)
        deltas = torch.full((len(anchors), 4), delta, requires_grad=True)
        pair = free_anchor_losses(
            logits, deltas, anchors, boxes, torch.tensor([0, 1, 1, 0]), box_coder=CODER, box_loss=box_loss
        )
        sum(pair, torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        for value in (*pair, logits.grad, deltas.grad):
            assert value is not None
            assert value.isfinite().all()


def test_a_bag_that_is_right_costs_nothing_and_one_that_is_wrong_costs_its_best_anchor() -> None:
    """With log-likelihoods far below 0, the mean-max of n becomes the mean: log(n) - log(sum)."""
    anchors = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8]])
    for logit, expected in ((40.0, 0.0), (-300.0, 150.0)):
        _, objects = losses(torch.full((2, 1), logit), torch.zeros(2, 4), anchors, anchors[:1], torch.tensor([0]))
        assert objects == pytest.approx(expected, abs=1e-6)


def test_thousands_of_objects_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of a comparison at once, and no matrix of all pairs is made."""
    anchors = grid_anchors([(32, 32), (16, 16)], [(8.0, 8.0), (12.0, 8.0)])
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, generator=generator) * 240
    boxes = torch.cat([corner, corner + 4 + 12 * torch.rand(3000, 2, generator=generator)], 1)
    labels = torch.randint(0, 3, (3000,), generator=generator)
    heads: tuple[Any, ...] = (torch.zeros(len(anchors), 3), torch.zeros(len(anchors), 4), anchors, boxes, labels)
    whole = losses(*heads)
    monkeypatch.setattr(free_anchor, "_MAX_PAIRS", 100 * len(anchors))
    with LargestTensor() as largest:
        assert losses(*heads) == pytest.approx(whole, rel=1e-5)
    # The corners of 100 x 2560 pairs, or the coordinates of the bags of 50.
    assert largest.elements <= max(100 * len(anchors) * 2, 3000 * 50 * 4)
