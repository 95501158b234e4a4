"""The overlap of boxes, compared with torchvision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from retina_edge.data.box_overlap import iou


def test_iou_equals_that_of_torchvision() -> None:
    generator = np.random.default_rng(0)

    def boxes(count: int) -> npt.NDArray[np.float32]:
        corners = generator.uniform(0, 50, (count, 2))
        return np.concatenate([corners, corners + generator.uniform(0, 50, (count, 2))], axis=1).astype(np.float32)

    first, second = boxes(40), boxes(30)
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(iou(first[:, None], second), expected, atol=1e-6)
    flat = np.zeros((1, 4), np.float32)
    assert iou(flat, flat) == 0
    assert iou(flat[:0, None], second).shape == (0, 30)
