"""Tests of Decode and NMS: the NumPy specification, the ONNX functions and torchvision agree over many seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.defs
import onnx.numpy_helper
import pytest

from engines.core.contract import DetectorContract
from engines.core.tensor_names import CANDIDATES
from engines.onnx.deployable import contract_of, heads_only, read_deployable
from engines.plugins.parameters import pack_parameters, unpack_parameters
from engines.plugins.specification import decode
from export.attach import attach
from export.functions import decode_function, nms_function, num_candidates
from retina_edge.assets import FOREST, MODEL
from retina_edge.detector import Detector
from tests.export.heads import (
    BOX_TOLERANCE,
    SCORE_TOLERANCE,
    Heads,
    assert_equal_detections,
    assert_torchvision_agrees,
    feeds,
    functions_session,
    make_contract,
    random_heads,
    run_functions,
    specification,
    tied,
    torchvision_detections,
    untied,
)

SEEDS = 6
CONTRACTS = {
    "usual": make_contract(),
    "one class": make_contract(num_classes=1),
    "91 classes": make_contract(num_classes=91, top_k=200, max_detections=100),
    "two levels": make_contract(num_levels=2),
    "six levels": make_contract(num_levels=6),
    "one anchor": make_contract(ratios=(1.0,)),
    "top_k of one": make_contract(top_k=1),
    "top_k above every level": make_contract(num_classes=1, num_levels=2, top_k=5000, max_detections=300),
    "more max_detections than candidates": make_contract(num_classes=1, top_k=20, max_detections=500),
    "one detection": make_contract(max_detections=1),
    "everything passes": make_contract(score_threshold=0.0, top_k=400),
    "nearly nothing passes": make_contract(score_threshold=0.9525),
    "every overlap suppresses": make_contract(iou_threshold=0.0),
    "no overlap suppresses": make_contract(iou_threshold=1.0),
    "class-agnostic": make_contract(agnostic=True),
}


@pytest.fixture(params=list(CONTRACTS.values()), ids=list(CONTRACTS))
def contract(request: pytest.FixtureRequest) -> DetectorContract:
    chosen: DetectorContract = request.param
    return chosen


def test_specification_functions_and_torchvision_agree(
    contract: DetectorContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = functions_session(contract)
    for seed in range(SEEDS):
        heads = random_heads(contract, seed=seed)
        expected = specification(contract, heads)
        assert expected.num_detections.any()
        assert_equal_detections(run_functions(session, contract, heads), expected)
        assert_torchvision_agrees(expected, torchvision_detections(contract, heads, monkeypatch))


def test_all_three_implementations_agree_on_ties(contract: DetectorContract, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision does not define the order of equal scores, so it gets logits whose ties are broken beforehand."""
    session = functions_session(contract)
    # The ties are broken between all logits, so all logits must pass the threshold.
    all_pass = dataclasses.replace(contract, score_threshold=0.0)
    for seed in range(SEEDS):
        heads = tied(random_heads(contract, seed=seed))
        assert any(np.signbit(level[level == 0]).any() for level in heads.cls_logits), "expected a logit of -0.0"
        assert_equal_detections(run_functions(session, contract, heads), specification(contract, heads))
        expected = specification(all_pass, heads)
        assert_equal_detections(run_functions(session, all_pass, heads), expected)
        for n, image in enumerate(torchvision_detections(all_pass, untied(heads), monkeypatch)):
            count = len(image["labels"])
            assert expected.num_detections[n] == count
            np.testing.assert_array_equal(expected.labels[n, :count], image["labels"])
            np.testing.assert_allclose(expected.boxes[n, :count], image["boxes"], rtol=0, atol=BOX_TOLERANCE)


def test_nan_logits_never_pass(contract: DetectorContract, monkeypatch: pytest.MonkeyPatch) -> None:
    session = functions_session(contract)
    heads = random_heads(contract, seed=0)
    rng = np.random.default_rng(1)
    for level in heads.cls_logits:
        level[rng.random(level.shape) < 0.3] = np.nan
    expected = specification(contract, heads)
    assert np.isfinite(expected.scores).all()
    assert_equal_detections(run_functions(session, contract, heads), expected)
    assert_torchvision_agrees(expected, torchvision_detections(contract, heads, monkeypatch))


def test_if_all_logits_are_nan_there_are_no_detections(contract: DetectorContract) -> None:
    heads = random_heads(contract, seed=0)
    for level in heads.cls_logits:
        level.fill(np.nan)
    detections = run_functions(functions_session(contract), contract, heads)
    assert_equal_detections(detections, specification(contract, heads))
    assert not detections.num_detections.any()


def test_logits_of_plus_and_minus_infinity(contract: DetectorContract) -> None:
    heads = random_heads(contract, seed=2)
    heads.cls_logits[0].reshape(-1)[::7] = np.inf
    heads.cls_logits[0].reshape(-1)[1::7] = -np.inf
    detections = run_functions(functions_session(contract), contract, heads)
    assert_equal_detections(detections, specification(contract, heads))
    assert (detections.scores[:, 0] >= 1 - SCORE_TOLERANCE).all()


@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)])
def test_images_without_detections(empty: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    contract = make_contract()
    heads = random_heads(contract, seed=3)
    for level in heads.cls_logits:
        level[list(empty)] = -20
    detections = run_functions(functions_session(contract), contract, heads)
    assert_equal_detections(detections, specification(contract, heads))
    assert_torchvision_agrees(detections, torchvision_detections(contract, heads, monkeypatch))
    assert [n for n in range(2) if detections.num_detections[n] == 0] == list(empty)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_size_gives_the_same_detections(batch: int) -> None:
    contract = make_contract()
    heads = random_heads(contract, seed=4, batch=batch)
    detections = run_functions(functions_session(contract, batch=batch), contract, heads)
    assert_equal_detections(detections, specification(contract, heads))


def test_a_batch_gives_the_detections_of_its_images() -> None:
    contract = make_contract()
    session = functions_session(contract)
    heads = random_heads(contract, seed=5, batch=4)
    together = run_functions(session, contract, heads)
    for n in range(4):
        alone = run_functions(session, contract, heads.image(n))
        for batch_output, image_output in zip(together, alone, strict=True):
            np.testing.assert_array_equal(batch_output[n : n + 1], image_output)


def test_raw_heads_in_float16_give_the_detections_of_their_rounded_values() -> None:
    contract = make_contract()
    heads = random_heads(contract, seed=6)
    half = Heads(*([level.astype(np.float16) for level in head] for head in heads))  # type: ignore[arg-type]
    session = functions_session(contract, head_type=onnx.TensorProto.FLOAT16)
    rounded = Heads(*([level.astype(np.float32) for level in head] for head in half))
    assert_equal_detections(run_functions(session, contract, half), specification(contract, rounded))


def test_parameters_are_read_from_the_tensor_and_not_built_in() -> None:
    """One session runs with other thresholds, strides, anchors and input sizes."""
    contract = make_contract()
    session = functions_session(contract)
    heads = random_heads(contract, seed=7)
    other_levels = [
        dataclasses.replace(
            level,
            stride=(level.stride[0] + 3, level.stride[1] - 2),
            anchor_sizes=tuple(size + 5 for size in level.anchor_sizes),
        )
        for level in contract.levels
    ]
    for change in (
        {"score_threshold": 0.95},
        {"iou_threshold": 0.2},
        {"agnostic": True},
        {"levels": tuple(other_levels)},
        {"input_size": (128, 192)},
    ):
        changed = dataclasses.replace(contract, **change)
        expected = specification(changed, heads)
        assert_equal_detections(run_functions(session, changed, heads), expected)
        assert not np.array_equal(expected.boxes, specification(contract, heads).boxes)


def test_class_agnostic_nms_leaves_one_box_of_three_classes_on_one_object(tmp_path: Path) -> None:
    """The sample model gets two more classes, whose logits are always a little lower than those of trees."""
    sample = read_deployable(MODEL.read_bytes())
    one, three = heads_only(sample), heads_only(sample)
    contract = dataclasses.replace(contract_of(sample), score_threshold=0.2)
    for tensor in three.graph.initializer:
        if "cls_logits" in tensor.name:
            values = np.repeat(onnx.numpy_helper.to_array(tensor), 3, axis=0)
            if tensor.name.endswith("bias"):
                values -= np.tile(np.array([0.5, 0, 0.25], np.float32), contract.num_anchors)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for head in three.graph.output[: len(contract.levels)]:
        head.type.tensor_type.shape.dim[1].dim_value *= 3
    confused = dataclasses.replace(
        contract, class_names=("oak", "tree", "bush"), category_ids=(1, 2, 3), max_detections=900, top_k=3000
    )
    models = {
        "one class": attach(one, contract),
        "class-aware": attach(three, confused),
        "class-agnostic": attach(three, dataclasses.replace(confused, agnostic=True)),
    }
    found = {}
    for name, model in models.items():
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        with Detector.load(tmp_path / f"{name}.onnx") as detector:
            found[name] = detector(FOREST)
    assert len(found["class-aware"]) > 2 * len(found["one class"])
    np.testing.assert_allclose(found["class-agnostic"].boxes, found["one class"].boxes, rtol=0, atol=BOX_TOLERANCE)
    assert set(found["class-agnostic"].labels.tolist()) == {1}


def test_deltas_of_the_box_size_are_clipped(contract: DetectorContract) -> None:
    """The deltas are far above log(1000/16) = 4.1, so that unclipped boxes would be enormous."""
    heads = random_heads(contract, seed=3)
    # Only the deltas of the size are scaled. The centers stay, so that not all boxes leave the input.
    for level in heads.box_deltas:
        view = level.reshape(len(level), contract.num_anchors, 4, -1)
        view[:, :, 2:] = np.abs(view[:, :, 2:]) * 20
    small = dataclasses.replace(contract, input_size=(8192, 8192))
    expected = specification(small, heads)
    assert expected.boxes.max() > 1000
    assert_equal_detections(run_functions(functions_session(small), small, heads), expected)


def test_decode_returns_the_candidates_of_the_specification(contract: DetectorContract) -> None:
    """Decode alone returns sorted candidates for each level, and minus infinity in rows without a candidate."""
    heads = tied(random_heads(contract, seed=8, batch=1))
    outputs = functions_session(contract).run(CANDIDATES, feeds(contract, heads))
    logits, boxes, labels = (output[0] for output in outputs)
    assert len(logits) == num_candidates(contract)
    candidates = decode(
        [level[0] for level in heads.cls_logits],
        [level[0] for level in heads.box_deltas],
        unpack_parameters(pack_parameters(contract), len(contract.levels)),
        num_classes=contract.num_classes,
        top_k=contract.top_k,
    )
    order = np.argsort(-logits, kind="stable")[: len(candidates.logits)]
    np.testing.assert_array_equal(logits[order], candidates.logits)
    np.testing.assert_array_equal(labels[order], candidates.labels)
    np.testing.assert_allclose(boxes[order], candidates.boxes, rtol=0, atol=BOX_TOLERANCE)
    assert np.isneginf(np.delete(logits, order)).all()


def test_the_functions_use_standard_operators_only(contract: DetectorContract) -> None:
    for function in (decode_function(contract), nms_function(contract)):
        onnx.checker.check_function(function)
        assert {(opset.domain, opset.version) for opset in function.opset_import} == {("", 18)}
        for node in function.node:
            assert node.domain == ""
            assert onnx.defs.has(node.op_type, max_inclusive_version=18)


def test_every_node_of_the_functions_is_used(contract: DetectorContract) -> None:
    """ONNX Runtime would also run unused nodes, so there must be none."""
    for function in (decode_function(contract), nms_function(contract)):
        used = {name for node in function.node for name in node.input} | set(function.output)
        for node in function.node:
            assert used.intersection(node.output), node.op_type
