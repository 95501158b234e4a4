"""``retina-edge inspect`` describes an engine and a deployable ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.builder import build_engine
from engines.tensorrt.passport import passport_path
from retina_edge.assets import MODEL
from retina_edge.inspect import main


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "model.engine"
    build_engine(MODEL, path, BuildOptions(targets=("sm89",)))
    return path


def test_an_engine_is_described(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(engine), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["contract"]["class_names"] == ["tree"]
    assert report["size"] == engine.stat().st_size
    assert report["layers"]["convolution"] == {"fp32": 61}
    assert len(report["convolutions"]) == 61
    assert [tensor["shape"] for tensor in report["inputs"]] == [[1, 416, 736, 3]]
    assert len(report["outputs"]) == 8
    assert report["facts"]["built for"] == "sm89"
    assert main([str(engine)]) == 0
    text = capsys.readouterr().out
    for words in ("sm89", "61 fp32", "head.classification_head.cls_logits:3", "1 × 416 × 736 × 3", "parsed network"):
        assert words in text


def test_an_onnx_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(MODEL), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"] == {"convolution": {"fp32": 61}}
    assert report["convolutions"]["head.regression_head.bbox_reg:3"] == "fp32"
    assert [tensor["name"] for tensor in report["outputs"]] == ["num_detections", "boxes", "scores", "labels"]
    assert main([str(MODEL)]) == 0
    assert "opset" in capsys.readouterr().out


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
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: object, message: str
) -> None:
    copy = tmp_path / "copy.engine"
    copy.write_bytes(engine.read_bytes())
    passport_path(copy).write_bytes(passport_path(engine).read_bytes())
    break_it(copy)  # type: ignore[operator]
    assert main([str(copy)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_foreign_onnx_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").write_bytes(b"none")
    assert main([str(tmp_path / "a.onnx")]) == 1
    assert "a.onnx: expected an ONNX model" in capsys.readouterr().err
