"""Tests of the order in which layers fall back: a damaged layer comes first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from engines.core.contract import DetectorContract
from engines.core.letterbox import letterbox_batch
from export.precision.calibration import audit
from export.precision.convolutions import sensitive_convolutions, weight_groups
from export.precision.quantization import quantize
from export.precision.ranges import Ranges, collect_ranges
from export.precision.sensitivity import cost, sensitivities
from export.verify import onnx_heads
from retina_edge.imaging.image_file import read_image

Frames = list[npt.NDArray[np.uint8]]


@pytest.mark.parametrize("layout", ["tensorrt", pytest.param("cpu", marks=pytest.mark.slow)])
def test_the_layer_whose_range_is_cut_comes_first(
    exported: onnx.ModelProto, contract: DetectorContract, frames: Frames, treecrowns: Path, layout: str
) -> None:
    images = audit(list((treecrowns / "images").iterdir()), read_image)
    ranges = collect_ranges(exported, contract, images, calibrator="minmax")
    always = sensitive_convolutions(exported, layout)
    groups = weight_groups(exported, always)
    read = [name for node in exported.graph.node for name in node.input]
    # The input of a convolution that no other operator reads, so that nothing else is damaged.
    damaged, tensor = next(
        (node.name, node.input[0])
        for node in exported.graph.node
        if node.op_type == "Conv" and node.name not in always and read.count(node.input[0]) == 1
    )
    cut = {**ranges, tensor: (ranges[tensor][0] / 100, ranges[tensor][1] / 100)}
    batches = [letterbox_batch([frame], contract.input_size)[0] for frame in frames[:2]]
    told: list[str] = []

    def with_ranges(chosen: Ranges) -> Callable[[tuple[str, ...]], onnx.ModelProto]:
        return lambda fallback: quantize(exported, chosen, layout, always, fallback)

    ranked = sensitivities(exported, groups, with_ranges(cut), batches, contract, told.append)
    healthy = sensitivities(exported, groups, with_ranges(ranges), batches, contract)
    assert damaged in ranked[0].names
    assert damaged not in healthy[0].names
    assert ranked[0].cost > 2 * next(item.cost for item in healthy if damaged in item.names)
    assert [item.cost for item in ranked] == sorted((item.cost for item in ranked), reverse=True)
    assert sorted(item.names for item in ranked) == sorted(groups)
    assert told[-1] == f"comparing layers: {len(groups)} of {len(groups)}"


def test_groups_share_their_weights_and_omit_kept_convolutions(exported: onnx.ModelProto) -> None:
    convolutions = [node for node in exported.graph.node if node.op_type == "Conv"]
    groups = weight_groups(exported, (convolutions[0].name,))
    assert sorted(name for group in groups for name in group) == sorted(node.name for node in convolutions[1:])
    weights = {node.name: node.input[1] for node in convolutions}
    assert all(len({weights[name] for name in group}) == 1 for group in groups)
    assert len({weights[group[0]] for group in groups}) == len(groups)
    assert max(map(len, groups)) == 3  # a head runs on three levels


def test_cost_counts_scores_and_the_boxes_of_objects(
    exported: onnx.ModelProto, contract: DetectorContract, frames: Frames
) -> None:
    expected = onnx_heads(exported, [letterbox_batch(frames[:1], contract.input_size)[0]])
    assert cost(expected, expected, contract) == 0
    levels = len(contract.levels)
    # Logits far below zero give no score, and the boxes of positions without an object do not count.
    quiet, other = copy.deepcopy(expected), copy.deepcopy(expected)
    for heads in (quiet, other):
        for level in range(levels):
            heads[0][level][:] = -30
    for level in range(levels):
        other[0][level] += 5
        other[0][levels + level] += 1
    assert cost(quiet, other, contract) < 1e-6
    moved = copy.deepcopy(expected)
    for level in range(levels):
        moved[0][levels + level] *= 1.1  # a ratio of noise to signal of a hundredth, the same in every box
    assert cost(expected, moved, contract) == pytest.approx(0.01, rel=1e-4)
