"""Anchors, objects and heads for the tests of assignment and losses, and a guard of their memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# (height, width) of the feature maps of a pyramid.
Grids = list[tuple[int, int]]


def grid_anchors(grids: Sequence[tuple[int, int]], shapes: Sequence[tuple[float, float]]) -> Tensor:
    """Return anchors float32 [anchors, 4], xyxy, in the order of torchvision, with strides 8, 16, 32, ...

    Args:
        grids: (height, width) of the feature map of each level.
        shapes: (width, height) of the anchors of the first level, pixels; they double from level to level.
    """
    anchors = []
    for level, (height, width) in enumerate(grids):
        stride = 8 * 2**level
        anchors += [
            [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            for y in range(0, height * stride, stride)
            for x in range(0, width * stride, stride)
            for w, h in ((2**level * w, 2**level * h) for w, h in shapes)
        ]
    return torch.tensor(anchors)


@st.composite
def scenes(draw: st.DrawFn, max_boxes: int = 6) -> tuple[Grids, Tensor, Tensor]:
    """Draw grids, anchors and boxes. Boxes lie on quarters of a pixel, so that centers and distances are exact."""
    sides = st.integers(1, 7)
    grids = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3))
    shapes = draw(st.lists(st.tuples(st.integers(4, 24), st.integers(4, 24)), min_size=1, max_size=3))
    quarters, lengths = st.integers(-20, 220), st.integers(1, 240)
    numbers = draw(st.lists(st.tuples(quarters, quarters, lengths, lengths), max_size=max_boxes))
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in numbers], dtype=torch.float32).view(-1, 4) / 4
    return grids, grid_anchors(grids, [(float(w), float(h)) for w, h in shapes]), boxes


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the IoU of two boxes xyxy."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the number of elements of the largest tensor that any operation returns.

    Examples:
        >>> with LargestTensor() as largest:
        ...     _ = (torch.zeros(3, 1) + torch.zeros(4)).sum()
        >>> largest.elements
        12
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result
