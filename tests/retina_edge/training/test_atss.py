"""ATSS chooses the anchors of algorithm 1, here against a slow loop written from the paper's text."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from retina_edge.training.atss import atss_matches
from tests.retina_edge.training.scenes import Grids, LargestTensor, grid_anchors, iou, scenes

# IoUs this near to the threshold, or to each other, may compare otherwise in float32.
NEAR = 1e-5


def center(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def algorithm_1(boxes: list[list[float]], anchors: list[list[float]], levels: list[range]) -> list[int]:
    """Return the box of each anchor, -1 for none: algorithm 1, and a candidate for a box that would have none."""
    per_position = len(anchors) // sum(len(level) for level in levels)
    claims: dict[int, list[tuple[float, int]]] = {}
    for number, box in enumerate(boxes):
        candidates: list[int] = []
        for level in levels:  # the paper's k is 9
            positions = sorted(level, key=lambda at: math.dist(center(anchors[at * per_position]), center(box)))
            for at in positions[:9]:
                candidates += range(at * per_position, (at + 1) * per_position)
        overlaps = {anchor: iou(anchors[anchor], box) for anchor in candidates}
        deviation = statistics.stdev(overlaps.values()) if len(overlaps) > 1 else 0.0
        threshold = statistics.mean(overlaps.values()) + deviation
        assume(len(overlaps) == 1 or all(abs(overlap - threshold) > NEAR for overlap in overlaps.values()))
        positive = [
            anchor
            for anchor, overlap in overlaps.items()
            if overlap >= threshold
            and box[0] < center(anchors[anchor])[0] < box[2]
            and box[1] < center(anchors[anchor])[1] < box[3]
        ]
        best = max(sorted(overlaps.values()))
        if not positive and best > 0:
            near = [anchor for anchor, overlap in overlaps.items() if overlap > best - NEAR]
            assume(len(near) == 1)  # which of equal ones is chosen is not specified
            positive = near
        for anchor in positive:
            claims.setdefault(anchor, []).append((overlaps[anchor], -number))
    matches = [-1] * len(anchors)
    for anchor, claim in claims.items():
        claim.sort()
        assume(all(two[0] == one[0] or two[0] - one[0] > NEAR for one, two in itertools.pairwise(claim)))
        matches[anchor] = -claim[-1][1]
    return matches


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_it_equals_a_loop_written_from_the_paper(scene: tuple[Grids, Tensor, Tensor]) -> None:
    grids, anchors, boxes = scene
    levels, first = [], 0
    for height, width in grids:
        levels.append(range(first, first + height * width))
        first += height * width
    expected = algorithm_1(boxes.tolist(), anchors.tolist(), levels)
    assert atss_matches(boxes, anchors, grids).tolist() == expected


def test_a_case_by_hand() -> None:
    """Two objects on a row of four positions, x = 0, 8, 16 and 24, with an anchor of 16x16 at each.

    Object 0 is the anchor at 8. Its IoUs with the four are 8/24, 1, 8/24 and 0: mean 0.4167, deviation
    sqrt((0.0833² + 0.5833² + 0.0833² + 0.4167²) / 3) = 0.4194, threshold 0.836. It takes the anchor at 8.
    Object 1 is 16 pixels high and 32 wide, from 8 to 40. Its IoUs are 0, 8/40, 16/32 and 16/32: mean 0.3, deviation
    sqrt((0.3² + 0.1² + 0.2² + 0.2²) / 3) = 0.2449, threshold 0.545. It takes none by algorithm 1, so it takes the
    better of its candidates, the first of two equal ones.
    """
    anchors = grid_anchors([(1, 4)], [(16.0, 16.0)])
    boxes = torch.tensor([[0.0, -8, 16, 8], [8, -8, 40, 8]])
    assert atss_matches(boxes, anchors, [(1, 4)]).tolist() == [-1, 0, 1, -1]


def test_the_deviation_is_that_of_a_sample() -> None:
    """An object 16 pixels wide around x = 12.5, with anchors of that size at 0, 8, 16, 24 and 32.

    The distances to them are 12.5, 4.5, 3.5, 11.5 and 19.5, so the IoUs are 3.5/28.5, 11.5/20.5, 12.5/19.5, 4.5/27.5
    and 0: mean 0.2977, squared deviations 0.0305 + 0.0693 + 0.1180 + 0.0180 + 0.0886 = 0.3243. Their sum divided by 4
    gives a threshold of 0.2977 + 0.2847 = 0.582; divided by 5, it would be 0.552, below the 0.561 of the anchor at 8.
    """
    anchors = grid_anchors([(1, 5)], [(16.0, 16.0)])
    box = torch.tensor([[4.5, -8, 20.5, 8]])
    assert atss_matches(box, anchors, [(1, 5)]).tolist() == [-1, -1, 0, -1, -1]


def test_an_anchor_of_two_objects_goes_to_the_one_with_the_larger_iou() -> None:
    """Both objects have the same center, so both claim the anchor at 8: with IoUs of 1 and of 16²/20² = 0.64."""
    anchors = grid_anchors([(1, 3)], [(16.0, 16.0)])
    boxes = torch.tensor([[-2.0, -10, 18, 10], [0, -8, 16, 8]])
    assert atss_matches(boxes[:1], anchors, [(1, 3)]).tolist() == [-1, 0, -1]
    assert atss_matches(boxes, anchors, [(1, 3)]).tolist() == [-1, 1, -1]


def test_a_center_on_the_border_is_not_inside() -> None:
    """The object from 0 to 12 has three candidates at 0, 8 and 16; the one at 0 overlaps it by 8/20 but is outside.

    The anchors are 16 wide. The IoUs are 8/20 = 0.4, 12/16 = 0.75 and 4/24 = 0.1667: mean 0.4389, deviation
    sqrt((0.0389² + 0.3111² + 0.2722²) / 2) = 0.2936, threshold 0.7325.
    """
    anchors = grid_anchors([(1, 3)], [(16.0, 16.0)])
    box = torch.tensor([[0.0, -8, 12, 8]])
    assert atss_matches(box, anchors, [(1, 3)]).tolist() == [-1, 0, -1]
    # An object from 0 to 8 takes neither the anchor at 0 nor the one at 8 by algorithm 1: both centers are borders.
    # Their IoUs are equal, 8/16, so it takes the first.
    assert atss_matches(torch.tensor([[0.0, -8, 8, 8]]), anchors, [(1, 3)]).tolist() == [0, -1, -1]


@pytest.mark.parametrize("box", [[3.0, 3, 5, 5], [11.5, 3.25, 12, 3.75], [-400.0, -400, 900, 900]])
def test_a_tiny_and_a_huge_object_are_learned(box: list[float]) -> None:
    """A tiny box between four centers has an anchor, too."""
    grids = [(8, 8), (4, 4)]
    anchors = grid_anchors(grids, [(8.0, 8.0), (16.0, 8.0)])
    matches = atss_matches(torch.tensor([box]), anchors, grids)
    assert (matches == 0).any()


def test_an_object_that_touches_no_candidate_is_not_learned() -> None:
    anchors = grid_anchors([(4, 4)], [(8.0, 8.0)])
    assert (atss_matches(torch.tensor([[500.0, 500, 510, 510]]), anchors, [(4, 4)]) == -1).all()


def test_without_boxes_no_anchor_learns() -> None:
    anchors = grid_anchors([(2, 2)], [(8.0, 8.0)])
    matches = atss_matches(torch.zeros(0, 4), anchors, [(2, 2)])
    assert matches.dtype == torch.int64
    assert (matches == -1).all()


def test_thousands_of_objects_need_memory_for_their_candidates_alone() -> None:
    """The matrix of all pairs would have 4000 x 43,648 elements."""
    grids = [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]
    anchors = grid_anchors(grids, [(8.0 + n, 8.0 + n) for n in range(8)])
    assert len(anchors) == 43_648
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(4000, 2, generator=generator) * 480
    boxes = torch.cat([corner, corner + 6 + 20 * torch.rand(4000, 2, generator=generator)], 1)
    with LargestTensor() as largest:
        matches = atss_matches(boxes, anchors, grids)
    candidates = 9 * 8 * len(grids)
    assert largest.elements <= 4000 * candidates * 4  # their coordinates
    assert len(set(matches.tolist())) > 3000
