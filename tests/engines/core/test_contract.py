"""Tests of the contract: the JSON round trip, and the refusal of contradictions."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.core.contract import LATER_FIELDS, DetectorContract, PyramidLevel, check_input_size
from engines.core.errors import ContractError, RetinaEdgeError
from engines.plugins.parameters import pack_parameters
from tests.hostile import accepted, damaged

LEVELS = (
    PyramidLevel((100, 100), (8, 8), (32.0, 40.3, 50.8), (0.5, 1.0, 2.0)),
    # At 800 pixels torchvision's stride is 61 on 13 positions, which is not a power of two.
    PyramidLevel((13, 13), (61, 61), (256.0, 322.5, 406.4), (0.5, 1.0, 2.0)),
)


def make(**changes: Any) -> DetectorContract:
    fields: dict[str, Any] = {
        "architecture": "retinanet_resnet50_fpn",
        "input_size": (800, 800),
        "class_names": ("person", "naïve café"),
        "category_ids": (1, 90),
        "levels": LEVELS,
        "score_threshold": 0.123456789,
        "produced_by": {"torch": "2.14.1"},
    }
    return DetectorContract(**{**fields, **changes})


def test_json_round_trip_is_exact() -> None:
    contract = make()
    restored = DetectorContract.from_json(contract.to_json())
    assert restored == contract
    assert restored.to_json() == contract.to_json()
    assert isinstance(restored.levels[1].stride, tuple)
    assert isinstance(restored.class_names, tuple)


def test_the_order_of_fields_in_json_does_not_matter() -> None:
    values = json.loads(make().to_json())
    shuffled = json.dumps(dict(reversed(values.items())))
    assert DetectorContract.from_json(shuffled).to_json() == make().to_json()


def test_the_numbers_of_classes_and_anchors() -> None:
    assert make().num_classes == 2
    assert make().num_anchors == 9


def test_a_contract_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().top_k = 5  # type: ignore[misc]


def test_cell_anchors_equal_those_of_torchvision() -> None:
    # Anchors of the first level of torchvision's RetinaNet: sizes 32, 40, 50 and ratios 0.5, 1, 2.
    level = PyramidLevel((100, 100), (8, 8), (32, 40, 50), (0.5, 1.0, 2.0))
    anchors = level.cell_anchors()
    assert anchors.dtype == np.float32
    assert anchors.tolist() == [
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (800, 801)}, "800x800"),
        ({"input_size": (0, 32)}, "32x32"),
        ({"input_size": (32, 32, 32)}, "height and width"),
        ({"class_names": (), "category_ids": ()}, "class_names"),
        ({"category_ids": (1,)}, "category_ids"),
        ({"category_ids": (1, 1)}, "unique ids"),
        ({"levels": ()}, "levels"),
        ({"levels": (PyramidLevel((0, 5), (8, 8), (32.0,), (1.0,)),)}, r"levels\[0\]"),
        ({"levels": (PyramidLevel((5, 5), (8, -8), (32.0,), (1.0,)),)}, r"levels\[0\]"),
        ({"levels": (PyramidLevel((5,), (8, 8), (32.0,), (1.0,)),)}, r"levels\[0\]"),  # type: ignore[arg-type]
        ({"levels": (PyramidLevel((5, 5), (8, 8), (), (1.0,)),)}, r"levels\[0\]"),
        ({"levels": (PyramidLevel((5, 5), (8, 8), (32.0,), (0.0,)),)}, r"levels\[0\]"),
        ({"levels": (LEVELS[0], PyramidLevel((5, 5), (8, 8), (32.0,), (1.0,)))}, r"levels\[1\].*9 anchors"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"std": (0.5, math.nan, 0.5)}, "std"),
        ({"mean": (0.5, 0.5, math.inf)}, "mean"),
        ({"mean": (math.nan, 0.5, 0.5)}, "mean"),
        ({"input_size": (32, 8224)}, "up to 8192 .*use 32x8192"),
        ({"input_size": (10**400, 32)}, "use 8192x32"),
        ({"input_size": (math.nan, 32)}, "use 32x32"),
        ({"class_names": ("a", "b\x1b[31m")}, r"class_names: expected text without control characters, got 'b\\x1b"),
        ({"class_names": ("a", "b\nerror: forged")}, "class_names: expected text without control"),
        ({"class_names": ("a", "\ud800")}, "class_names: expected text without control"),
        ({"architecture": "a\x07"}, "architecture: expected text without control"),
        ({"produced_by": {"torch": "2\x9b1m"}}, "produced_by: expected text without control"),
        ({"levels": (PyramidLevel((5, 5), (8, 8), (math.nan,), (1.0,)),)}, r"levels\[0\]: .*from 1e-06 to 1e\+06"),
        ({"levels": (PyramidLevel((5, 5), (8, 8), (32.0,) * 257, (1.0,)),)}, "expected 1 to 256 anchors"),
        ({"levels": (PyramidLevel((5, 10**9), (8, 8), (32.0,), (1.0,)),)}, "all from 1 to 8192"),
        ({"levels": (LEVELS[0],) * 17}, "1 to 16 pyramid levels, got 17"),
        ({"top_k": 100_001}, "top_k: expected 1 to 100000"),
        ({"max_detections": 10**18}, "max_detections: expected 1 to 100000"),
        ({"color_order": "GBR"}, "color_order"),
        ({"letterbox": "center"}, "letterbox"),
        ({"score_threshold": 1.0}, "score_threshold"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"iou_threshold": 1.1}, "iou_threshold"),
        ({"top_k": 0}, "top_k"),
        ({"max_detections": 0}, "max_detections"),
        ({"precision": "fp8"}, "precision.*fp32, fp16, int8"),
    ],
)
def test_a_contradiction_is_refused_with_the_name_of_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "null",
            "3",
            '"contract"',
            "{}",
            '{"schema": 99}',
            '{"schema": true}',
            None,
            b"{}",
            "\x00\x01",
        ),
        "[" * 100_000,
        '{"schema": ' + "[" * 900 + "]" * 900 + "}",
        '{"schema": 1' + "0" * 5000 + "}",
    ],
    ids=lambda text: str(text)[:12],
)
def test_other_text_than_a_contract_is_refused(text: Any) -> None:
    with pytest.raises(ContractError, match="contract: expected"):
        DetectorContract.from_json(text)


@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(DetectorContract) if field.name not in LATER_FIELDS]
)
def test_a_missing_field_is_named(field: str) -> None:
    values = json.loads(make().to_json())
    del values[field]
    with pytest.raises(ContractError, match=f"missing.*{field}"):
        DetectorContract.from_json(json.dumps(values))


def test_a_class_aware_contract_is_written_as_before_class_agnostic_nms() -> None:
    """Files of older versions lack the field. Older versions refuse an unknown field, so they must not meet it."""
    values = json.loads(make().to_json())
    assert "agnostic" not in values
    assert not DetectorContract.from_json(json.dumps(values)).agnostic


def test_a_class_agnostic_contract_survives_json() -> None:
    contract = make(agnostic=True)
    assert json.loads(contract.to_json())["agnostic"] is True
    assert DetectorContract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize("value", [1, 0, None, "true", [True]])
def test_agnostic_is_true_or_false(value: object) -> None:
    with pytest.raises(ContractError, match="agnostic: expected true or false, got"):
        DetectorContract.from_json(json.dumps({**json.loads(make().to_json()), "agnostic": value}))


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ContractError, match=r"unknown.*color"):
        DetectorContract.from_json(json.dumps({**json.loads(make().to_json()), "color": 1}))


@settings(max_examples=200, deadline=None)
@given(damaged(json.loads(make().to_json())))
def test_a_damaged_contract_is_refused_or_usable(text: str) -> None:
    if contract := accepted(lambda: DetectorContract.from_json(text)):
        assert DetectorContract.from_json(contract.to_json()) == contract
        score, *others = pack_parameters(contract)
        assert np.isfinite(others).all()
        assert np.isfinite(score) or contract.score_threshold == 0  # whose logit is minus infinity


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_text_that_is_no_contract_is_refused(text: str) -> None:
    with pytest.raises(ContractError):
        DetectorContract.from_json(text)


@pytest.mark.parametrize("junk", [None, "x", 3, [], {}, [[]], True])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DetectorContract)])
def test_a_value_of_a_wrong_type_is_refused_or_harmless(field: str, junk: Any) -> None:
    values = {**json.loads(make().to_json()), field: junk}
    try:
        contract = DetectorContract.from_json(json.dumps(values))
    except RetinaEdgeError:
        return
    # A contract that is accepted must survive the round trip.
    assert DetectorContract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize("changes", [{"stride": None}, {"feature_size": "ab"}, {"anchor_sizes": 32.0}, {"depth": 3}])
def test_a_damaged_level_is_refused(changes: dict[str, Any]) -> None:
    values = json.loads(make().to_json())
    values["levels"][0].update(changes)
    with pytest.raises(ContractError, match=f"contract: .*{next(iter(changes))}"):
        DetectorContract.from_json(json.dumps(values))


def test_a_level_without_a_field_is_refused() -> None:
    values = json.loads(make().to_json())
    del values["levels"][1]["stride"]
    with pytest.raises(ContractError, match=r"levels\[1\]: .*missing.*stride"):
        DetectorContract.from_json(json.dumps(values))


@pytest.mark.parametrize("size", [(32, 32), (416, 736), (1024, 64)])
def test_multiples_of_32_are_accepted_as_input_size(size: tuple[int, int]) -> None:
    check_input_size(size)


@pytest.mark.parametrize(("size", "nearest"), [((1, 33), "32x32"), ((-5, 100), "32x96"), ((500, 800), "512x800")])
def test_another_input_size_is_refused_with_the_nearest_one(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(ContractError, match=nearest):
        check_input_size(size)


def test_the_error_of_a_size_of_many_numbers_is_short() -> None:
    many: Any = tuple(range(3000))
    with pytest.raises(ContractError, match=r"two numbers, height and width, got \(0, 1, 2, 3, 4, 5, \.\.\.\)$"):
        check_input_size(many)
