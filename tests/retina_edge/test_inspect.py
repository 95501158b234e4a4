"""``retina-edge inspect`` describes a checkpoint, a deployable ONNX and an engine."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from engines.core.tensor_names import QUANTIZATION_KEY
from engines.tensorrt.passport import passport_path
from retina_edge.assets import MODEL
from retina_edge.inspect import main
from retina_edge.model.checkpoint import load_checkpoint


def test_an_engine_is_described(tiny_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_engine), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["contract"]["class_names"] == ["tree"]
    assert report["size"] == tiny_engine.stat().st_size
    assert report["layers"]["convolution"] == {"fp32": 26}
    assert len(report["convolutions"]) == 26
    assert [tensor["shape"] for tensor in report["inputs"]] == [[-1, 128, 160, 3]]
    assert len(report["outputs"]) == 6
    assert report["facts"]["built for"] == "sm86"
    assert main([str(tiny_engine)]) == 0
    text = capsys.readouterr().out
    for words in ("sm86", "26 fp32", "head.classification_head.cls_logits:2", "N × 128 × 160 × 3", "parsed network"):
        assert words in text


def test_an_onnx_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(MODEL), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"] == {"convolution": {"fp32": 61}}
    assert report["convolutions"]["head.regression_head.bbox_reg:3"] == "fp32"
    assert [tensor["name"] for tensor in report["outputs"]] == ["num_detections", "boxes", "scores", "labels"]
    assert main([str(MODEL)]) == 0
    printed = capsys.readouterr().out
    assert "opset" in printed
    assert "class-aware" in printed


def test_a_checkpoint_is_described(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["contract"]["class_names"] == ["tree"]
    assert report["facts"]["backbone"] == "resnet18"
    assert report["facts"]["training"].startswith("finished")
    loaded = load_checkpoint(checkpoint)
    contract = dataclasses.replace(loaded.contract, agnostic=True)
    state = dataclasses.replace(loaded, contract=contract, training={"step": 7})
    state.save(tmp_path / "m.last.pt")
    assert main([str(tmp_path / "m.last.pt")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "state after step 7, for retina-edge train --resume" in printed
    assert "class-agnostic" in printed


@pytest.mark.parametrize("name", ["model.h5", "model"])
def test_another_kind_of_file_is_refused_with_the_suffixes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert main([str(tmp_path / name)]) == 1
    assert f"{name}: expected a model ending in .pt, .onnx, .engine, .plan, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda engine: engine.write_bytes(b"x"), "damaged or was replaced"),
        (lambda engine: passport_path(engine).unlink(), "expected the engine's passport"),
        (lambda engine: engine.unlink(), "found no file"),
    ],
    ids=["damaged", "no passport", "no file"],
)
def test_an_unusable_engine_is_an_error_of_one_line(
    tiny_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: object, message: str
) -> None:
    copy = tmp_path / "copy.engine"
    copy.write_bytes(tiny_engine.read_bytes())
    passport_path(copy).write_bytes(passport_path(tiny_engine).read_bytes())
    break_it(copy)  # type: ignore[operator]
    assert main([str(copy)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_foreign_onnx_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").write_bytes(b"none")
    assert main([str(tmp_path / "a.onnx")]) == 1
    assert "a.onnx: expected an ONNX model" in capsys.readouterr().err


def with_one_input(model: onnx.ModelProto) -> None:
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    del convolution.input[1:]


def with_an_unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 999


def with_a_nested_record(model: onnx.ModelProto) -> None:
    record = model.metadata_props.add()
    record.key, record.value = QUANTIZATION_KEY, '{"a": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_one_input, "expected the graph of a deployable ONNX, got a damaged one"),
        (with_an_unknown_type, r"got a damaged one \(KeyError 999\)"),
        (with_a_nested_record, "retina_edge.quantization: a: expected at most 16 levels"),
    ],
)
def test_a_damaged_graph_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = onnx.load(MODEL)
    change(model)
    onnx.save(model, tmp_path / "a.onnx")
    assert main([str(tmp_path / "a.onnx")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"a.onnx: .*{message}", line)


def test_control_characters_of_a_file_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(MODEL)
    # A convolution is named after its weights.
    next(node for node in model.graph.node if node.op_type == "Conv").input[1] = "\x1b[31mred\nerror: forged\x07"
    model.opset_import.add(domain="\x1b]0;title\x07", version=1)
    path = tmp_path / "\x1b[31ma.onnx"
    onnx.save(model, path)
    for options in ([], ["--json"]):
        assert main([str(path), *options]) == 0
        printed = capsys.readouterr().out
        assert "31mred\\nerror: forged" in printed
        assert printed.replace("\n", "").isprintable()
    path.write_bytes(b"")
    assert main([str(path)]) == 1
    assert capsys.readouterr().err.strip().isprintable()
