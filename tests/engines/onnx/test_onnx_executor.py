"""Tests of the ONNX Runtime executor: its results, and the models that it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from engines.core.errors import ModelFileError
from engines.core.executor import RawDetections
from engines.core.tensor_names import QUANTIZATION_KEY
from engines.onnx import onnx_executor
from engines.onnx.onnx_executor import CONTRACT_KEY, OnnxExecutor
from export.attach import attach
from retina_edge.assets import MODEL
from tests.export.heads import (
    Heads,
    assert_equal_detections,
    make_contract,
    network_of_heads,
    random_heads,
    specification,
)

CONTRACT = make_contract()
HEADS = random_heads(CONTRACT, seed=0, batch=1)


def deployable(batch: int | str = "N") -> onnx.ModelProto:
    return attach(network_of_heads(CONTRACT, HEADS, batch=batch), CONTRACT)


def images(blue: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return images that ``network_of_heads`` distinguishes by one blue pixel."""
    batch = np.zeros((len(blue), *CONTRACT.input_size, 3), np.uint8)
    batch[:, 0, 0, 0] = blue
    return batch


def expected(blue: list[int]) -> RawDetections:
    shift = np.array(blue, np.float32).reshape(-1, 1, 1, 1) * np.float32(0.01)
    deltas = [np.repeat(level, len(blue), axis=0) for level in HEADS.box_deltas]
    return specification(CONTRACT, Heads([level + shift for level in HEADS.cls_logits], deltas))


@pytest.mark.parametrize(("batch", "blue"), [("N", [0]), ("N", [7, 250, 30]), (1, [9]), (2, [200, 0])])
def test_detections_equal_those_of_the_specification(tmp_path: Path, batch: int | str, blue: list[int]) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(deployable(batch), path)
    executor = OnnxExecutor(path, threads=1)
    assert executor.batch == (None if batch == "N" else batch)
    assert_equal_detections(executor.infer(images(blue)), expected(blue))
    executor.close()


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), (" 2,1", 2), ("all", 0), (None, 0)])
def test_the_number_of_threads_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, threads: int
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(deployable(), path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    for requested in (0, 1):
        options = OnnxExecutor(path, threads=requested)._session.get_session_options()
        assert options.intra_op_num_threads == (requested or threads)


@pytest.mark.parametrize("for_tensorrt", [False, True])
def test_nothing_is_printed_when_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], for_tensorrt: bool
) -> None:
    """ONNX Runtime warns, in color, if an option is set twice; an INT8 model for TensorRT is opened twice."""
    monkeypatch.setattr(onnx_executor, "_is_for_tensorrt", lambda _session: for_tensorrt)
    OnnxExecutor(MODEL).close()
    assert capfd.readouterr() == ("", "")


def test_the_contract_survives_the_round_trip(tmp_path: Path) -> None:
    contract = dataclasses.replace(CONTRACT, class_names=("arbre", "Fichte, rot", '"木"'), produced_by={"torch": "2"})
    path = tmp_path / "model.onnx"
    onnx.save(attach(network_of_heads(contract, HEADS, batch=1), contract), path)
    assert OnnxExecutor(path).contract == contract


def test_results_belong_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(deployable(), path)
    executor = OnnxExecutor(path)
    first = executor.infer(images([0]))
    before = [part.copy() for part in first]
    executor.infer(images([255]))
    for part, copy in zip(first, before, strict=True):
        np.testing.assert_array_equal(part, copy)


def without_contract(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def with_damaged_contract(model: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(model, {CONTRACT_KEY: '{"schema": 1, "levels"'})


def with_newer_contract(model: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(model, {CONTRACT_KEY: '{"schema": 99}'})


def with_other_input_size(model: onnx.ModelProto) -> None:
    contract = dataclasses.replace(CONTRACT, input_size=(64, 64))
    onnx.helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})


def without_an_output(model: onnx.ModelProto) -> None:
    del model.graph.output[3]


def with_an_unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


def with_other_max_detections(model: onnx.ModelProto) -> None:
    contract = dataclasses.replace(CONTRACT, max_detections=CONTRACT.max_detections + 1)
    onnx.helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})


def with_control_characters(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "\x1b[31mNo\x07"


def with_a_damaged_record(model: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(model, {CONTRACT_KEY: CONTRACT.to_json(), QUANTIZATION_KEY: "[" * 100_000})


def with_another_record(model: onnx.ModelProto) -> None:
    onnx.helper.set_model_props(model, {CONTRACT_KEY: CONTRACT.to_json(), QUANTIZATION_KEY: "[]"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_contract, f"expected the contract in the metadata under '{CONTRACT_KEY}', found none"),
        (with_damaged_contract, "contract: expected JSON"),
        (with_newer_contract, "expected schema 1, got 99"),
        (with_other_input_size, r"expected inputs and outputs as in the contract, .*\[64, 64, 3\]"),
        (with_other_max_detections, r"expected inputs and outputs as in the contract, .*\[41, 4\]"),
        (without_an_output, "expected inputs and outputs as in the contract, .*'labels'"),
        (with_an_unknown_operator, "ONNX Runtime says: .*NoSuchOperator"),
        (with_control_characters, r"ONNX Runtime says: .*\[31mNo"),
        (with_a_damaged_record, "quantization: expected JSON, .*nested too deep"),
        (with_another_record, r"quantization: expected an object, got \[\]"),
    ],
)
def test_a_foreign_model_is_refused(tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = deployable()
    change(model)
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match=f"foreign.onnx: .*{message}") as caught:
        OnnxExecutor(path)
    assert str(caught.value).isprintable()


def test_labels_without_a_name_are_refused(tmp_path: Path) -> None:
    """Whoever shortens the class names in the metadata gets an error instead of a traceback in the middle of a run."""
    model = deployable()
    names, ids = CONTRACT.class_names[:1], CONTRACT.category_ids[:1]
    contract = dataclasses.replace(CONTRACT, class_names=names, category_ids=ids)
    onnx.helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    executor = OnnxExecutor(path, threads=1)
    with pytest.raises(ModelFileError, match="expected labels below 1, the number of class names in its contract, got"):
        executor.infer(images([0]))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_corrupt_file_is_refused(tmp_path: Path, damage: str) -> None:
    content = {
        "empty": b"",
        "text": b"not a model at all",
        "truncated": deployable().SerializeToString()[:5000],
    }[damage]
    path = tmp_path / "corrupt.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"corrupt\.onnx: expected an ONNX model, got"):
        OnnxExecutor(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"missing\.onnx: expected an ONNX file, found none"):
        OnnxExecutor(tmp_path / "missing.onnx")
