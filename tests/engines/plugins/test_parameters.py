"""Tests of the anchors, against literal values and torchvision, and of the parameter tensor that contains them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import _default_anchorgen

from engines.core.contract import DetectorContract, PyramidLevel
from engines.plugins.parameters import DELTA_CLIP, HEADER, logit, pack_parameters, unpack_parameters
from retina_edge.model.config import octave_sizes
from tests.export.heads import make_contract, torchvision_anchors

RATIOS = (0.5, 1.0, 2.0)
# The paper's anchors on P3: areas 32², 40² and 50²; height / width of 1/2, 1 and 2.
P3 = [
    [-23, -11, 23, 11],
    [-28, -14, 28, 14],
    [-35, -18, 35, 18],
    [-16, -16, 16, 16],
    [-20, -20, 20, 20],
    [-25, -25, 25, 25],
    [-11, -23, 11, 23],
    [-14, -28, 14, 28],
    [-18, -35, 18, 35],
]
P7 = [
    [-362, -181, 362, 181],
    [-456, -228, 456, 228],
    [-574, -287, 574, 287],
    [-256, -256, 256, 256],
    [-322, -322, 322, 322],
    [-406, -406, 406, 406],
    [-181, -362, 181, 362],
    [-228, -456, 228, 456],
    [-287, -574, 287, 574],
]


def level_of(sizes: tuple[float, ...], ratios: tuple[float, ...] = RATIOS) -> PyramidLevel:
    return PyramidLevel((1, 1), (8, 8), sizes, ratios)


@pytest.mark.parametrize(("index", "expected"), [(0, P3), (4, P7)])
def test_the_papers_anchors(index: int, expected: list[list[int]]) -> None:
    anchors = level_of(octave_sizes((32, 64, 128, 256, 512))[index]).cell_anchors()
    assert anchors.dtype == np.float32
    np.testing.assert_array_equal(anchors, expected)


def test_halves_are_rounded_to_even() -> None:
    """Areas of 1², 3², 5² and 7² have half sides of 0.5, 1.5, 2.5 and 3.5."""
    anchors = level_of((1.0, 3.0, 5.0, 7.0), (1.0,)).cell_anchors()
    np.testing.assert_array_equal(anchors[:, 2], [0, 2, 2, 4])


def test_every_level_has_the_anchors_of_torchvision() -> None:
    generator = _default_anchorgen()
    for sizes, expected in zip(octave_sizes((32, 64, 128, 256, 512)), generator.cell_anchors, strict=True):
        np.testing.assert_array_equal(level_of(sizes).cell_anchors(), expected.numpy())


@pytest.mark.parametrize("seed", range(20))
def test_unusual_sizes_and_ratios_give_the_anchors_of_torchvision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = tuple(rng.uniform(4, 600, 3).tolist())
    ratios = tuple(rng.uniform(0.2, 5, 3).tolist())
    (expected,) = AnchorGenerator((sizes,), (ratios,)).cell_anchors
    np.testing.assert_array_equal(level_of(sizes, ratios).cell_anchors(), expected.numpy())


@pytest.mark.parametrize("num_levels", [1, 3, 6])
def test_the_anchors_of_all_positions_are_those_of_torchvision(num_levels: int) -> None:
    """An anchor is a cell anchor plus stride times position, in the order row, column, anchor."""
    contract = make_contract(num_levels=num_levels)
    parameters = unpack_parameters(pack_parameters(contract), num_levels)
    expected = torchvision_anchors(contract)
    for i, level in enumerate(contract.levels):
        y, x = np.mgrid[: level.feature_size[0], : level.feature_size[1]]
        positions = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        shift = positions.astype(np.float32) * np.tile(parameters.strides[i], 2)
        anchors = (shift + parameters.cell_anchors[i]).reshape(-1, 4)
        np.testing.assert_array_equal(anchors, expected[i].numpy())


def test_unpacked_parameters_are_those_that_were_packed() -> None:
    contract = make_contract(num_levels=4, score_threshold=0.3, iou_threshold=0.45)
    packed = pack_parameters(contract)
    assert (packed.dtype.name, packed.shape) == ("float32", (HEADER + 4 * 4 * 6 + 2 * 4,))
    values = unpack_parameters(packed, 4)
    assert values.logit_threshold == np.float32(math.log(0.3 / 0.7))
    assert values.iou_threshold == np.float32(0.45)
    assert values.delta_clip == np.float32(DELTA_CLIP)
    np.testing.assert_array_equal([values.input_height, values.input_width], contract.input_size)
    for i, level in enumerate(contract.levels):
        np.testing.assert_array_equal(values.cell_anchors[i], level.cell_anchors())
        np.testing.assert_array_equal(values.strides[i], level.stride[::-1])


def test_class_agnostic_nms_is_a_one_where_older_files_have_a_zero() -> None:
    contract = make_contract(num_levels=1)
    aware, agnostic = (pack_parameters(dataclasses.replace(contract, agnostic=value)) for value in (False, True))
    assert (aware[5:HEADER].tolist(), agnostic[5:HEADER].tolist()) == ([0, 0, 0], [1, 0, 0])
    assert [unpack_parameters(packed, 1).agnostic for packed in (aware, agnostic)] == [False, True]


def test_x_and_y_are_not_swapped() -> None:
    level = PyramidLevel((2, 4), (32, 16), (20.0,), (4.0,))
    contract = dataclasses.replace(make_contract(), input_size=(64, 96), levels=(level,))
    packed = pack_parameters(contract).tolist()
    assert packed[3:5] == [96, 64]
    assert packed[HEADER:] == [-5, -20, 5, 20, 16, 32]


@pytest.mark.parametrize("length", [0, HEADER, HEADER + 5, HEADER + 2 * 3 + 4 * 3 + 1])
def test_parameters_of_a_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"for L = 3 levels, got {length}"):
        unpack_parameters(np.zeros(length, np.float32), 3)


@pytest.mark.parametrize(("score", "expected"), [(0.5, 0.0), (0.05, -2.944439), (0.0, -math.inf)])
def test_logit(score: float, expected: float) -> None:
    assert logit(score) == pytest.approx(expected, abs=1e-6)


def test_the_contract_survives_json() -> None:
    contract = make_contract(num_levels=2)
    assert DetectorContract.from_json(contract.to_json()) == contract
