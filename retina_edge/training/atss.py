"""Adaptive training sample selection: the anchors that learn an object, chosen by the statistics of their IoUs.

Zhang et al., arXiv 1912.02424, section 3.2, algorithm 1. The number of anchors at a position follows the authors'
program (github.com/sfzhang15/ATSS): with A anchors at a position, 9 A anchors of each level are candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from retina_edge.training.paired_iou import paired_iou

# The paper's k, its only hyper-parameter: the nearest positions of each level whose anchors are candidates.
NEAREST = 9


def atss_matches(boxes: Tensor, anchors: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Return the index of the box that each anchor learns, int64 [anchors]; ``Matcher.BELOW_LOW_THRESHOLD`` for none.

    The candidates of an object are all anchors at the 9 positions of each level that are nearest to its center; of
    equally near ones, the first. Those learn it whose center lies inside it, and whose IoU reaches the mean plus the
    standard deviation over its candidates. An anchor that several objects claim learns the one with the largest IoU.

    One rule is not the paper's: an object that no anchor would learn, such as one smaller than a stride between four
    centers, claims the candidate with the largest IoU, as torchvision's matcher does with its low-quality matches.

    The memory grows with the number of boxes, not with boxes times anchors.

    Args:
        boxes: boxes of an image's objects, float [M, 4] xyxy, input pixels.
        anchors: float [anchors, 4] xyxy, input pixels, level after level and row after row; the anchors at a position
            are adjacent, equally many everywhere, and have the same center.
        grids: (height, width) of the feature map of each level.

    Examples:
        One level of 1x3 positions at x = 0, 8 and 16, with one anchor each. All three are candidates, with IoUs of 0.2,
        1 and 0.2. The threshold is 0.93: their mean of 0.47 plus their standard deviation of 0.46.

        >>> anchors = torch.tensor([[-6.0, -6, 6, 6], [2, -6, 14, 6], [10, -6, 22, 6]])
        >>> atss_matches(torch.tensor([[2.0, -6, 14, 6]]), anchors, [(1, 3)])
        tensor([-1,  0, -1])
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.int64, device=anchors.device)
    candidates = _candidates(boxes, anchors, grids)
    found, objects = anchors[candidates], boxes[:, None]
    overlaps = paired_iou(found, objects)
    # A sample's deviation, as in the authors' program; that of a single candidate is zero.
    deviation = overlaps.std(1, correction=min(1, overlaps.shape[1] - 1), keepdim=True)
    centers = (found[..., :2] + found[..., 2:]) / 2
    inside = ((centers > objects[..., :2]) & (centers < objects[..., 2:])).all(-1)
    claimed = inside & (overlaps >= overlaps.mean(1, keepdim=True) + deviation)
    best, index = overlaps.max(1, keepdim=True)
    left_out = ~claimed.any(1, keepdim=True) & (best > 0)
    claimed.scatter_(1, index, claimed.gather(1, index) | left_out)
    return _resolved(claimed, overlaps, candidates, len(anchors))


def _candidates(boxes: Tensor, anchors: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Return the indices of the candidates of each box, int64 [M, candidates]."""
    per_position = len(anchors) // sum(height * width for height, width in grids)
    same_position = torch.arange(per_position, device=anchors.device)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    first, found = 0, []
    for height, width in grids:
        last = first + height * width * per_position
        grid = anchors[first:last:per_position].view(height, width, 4)
        dx = (centers[:, :1] - (grid[0, :, 0] + grid[0, :, 2]) / 2).square()
        dy = (centers[:, 1:] - (grid[:, 0, 1] + grid[:, 0, 3]) / 2).square()
        # The nearest positions of a grid lie in its nearest rows and columns.
        columns, rows = _nearest(dx), _nearest(dy)
        distances = dy.gather(1, rows)[:, :, None] + dx.gather(1, columns)[:, None]
        positions = (rows[:, :, None] * width + columns[:, None]).flatten(1)
        positions = positions.gather(1, _nearest(distances.flatten(1)))
        found.append((first + positions[:, :, None] * per_position + same_position).flatten(1))
        first = last
    return torch.cat(found, 1)


def _nearest(distances: Tensor) -> Tensor:
    """Return the indices of the nearest ones in each row, at most ``NEAREST``, in ascending order."""
    return distances.sort(dim=1, stable=True).indices[:, :NEAREST].sort(dim=1).values


def _resolved(claimed: Tensor, overlaps: Tensor, candidates: Tensor, anchors: int) -> Tensor:
    """Give each anchor to the object with the largest IoU of those that claim it; of equal ones, to the first."""
    count = len(candidates)
    overlaps = overlaps.masked_fill(~claimed, -1.0)
    largest = overlaps.new_full((anchors,), -1.0)
    largest = largest.scatter_reduce(0, candidates.flatten(), overlaps.flatten(), "amax")
    wins = claimed & (overlaps == largest[candidates])
    objects = torch.arange(count, device=candidates.device)[:, None].expand_as(candidates)
    matches = torch.full((anchors,), count, device=candidates.device)
    matches = matches.scatter_reduce(0, candidates.flatten(), objects.masked_fill(~wins, count).flatten(), "amin")
    return matches.masked_fill(matches == count, Matcher.BELOW_LOW_THRESHOLD)
