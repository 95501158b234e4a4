"""``retina-edge deploy triton``: the repository, checked against Triton's own schema if tritonclient is installed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]

from engines.core.contract import DetectorContract
from engines.tensorrt.passport import read_engine
from retina_edge.assets import MODEL
from retina_edge.deploy import main
from retina_edge.deployment.triton import quoted
from tests.retina_edge.deployment.deployables import PLAN, write_engine
from tests.stand_in import contract

NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT32": np.int32}


def deploy(*arguments: object) -> int:
    return main(["triton", *map(str, arguments)])


def parse(path: Path) -> Any:
    """Parse ``config.pbtxt`` as Triton's own message. Unknown fields and wrong types are errors."""
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2",
        reason="needs tritonclient, which has Triton's schema of config.pbtxt",
        exc_type=(ImportError, RuntimeError),  # type: ignore[arg-type]
    )
    return text_format.Parse(path.read_text(), schema.ModelConfig())


def tensors(items: Any) -> dict[str, tuple[str, list[int]]]:
    """Return type and dims of tensors by name."""
    return {item.name: (_type_name(item), list(item.dims)) for item in items}


def _type_name(item: Any) -> str:
    field = item.DESCRIPTOR.fields_by_name["data_type"]
    return str(field.enum_type.values_by_number[item.data_type].name)


def test_the_repository_of_an_engine_with_a_fixed_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = write_engine(tmp_path, batch=(2, 2, 2))
    assert deploy(engine, "-o", tmp_path / "repository", "--name", "patches") == 0
    assert "tritonserver --model-repository=" in capsys.readouterr().out
    folder = tmp_path / "repository" / "patches"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "1/model.plan",
        "1/model.plan.json",
        "README.md",
        "config.pbtxt",
        "contract.json",
        "labels.txt",
    ]
    assert (folder / "1" / "model.plan").read_bytes() == PLAN
    assert read_engine(folder / "1" / "model.plan").contract == contract()
    assert (folder / "labels.txt").read_text() == "patch\nother\n"
    assert DetectorContract.from_json((folder / "contract.json").read_text()) == contract()
    readme = (folder / "README.md").read_text()
    assert "uint8 [2, 64, 96, 3]" in readme
    assert "non-maximum suppression" not in readme
    config = parse(folder / "config.pbtxt")
    assert (config.name, config.platform, config.max_batch_size) == ("patches", "tensorrt_plan", 0)
    assert tensors(config.input) == {"images": ("TYPE_UINT8", [2, 64, 96, 3])}
    assert tensors(config.output) == {
        "num_detections": ("TYPE_INT32", [2]),
        "boxes": ("TYPE_FP32", [2, 4, 4]),
        "scores": ("TYPE_FP32", [2, 4]),
        "labels": ("TYPE_INT32", [2, 4]),
    }
    assert not config.HasField("dynamic_batching")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, type(group).KIND_GPU)
    (warmup,) = config.model_warmup
    assert warmup.batch_size == 1
    assert list(warmup.inputs["images"].dims) == [2, 64, 96, 3]
    assert warmup.inputs["images"].zero_data
    assert DetectorContract.from_json(config.parameters["retina_edge.contract"].string_value) == contract()


@pytest.mark.parametrize(("arguments", "batch"), [((), 8), (("--max-batch", 3), 3)])
def test_triton_batches_requests_for_an_engine_with_a_dynamic_batch(
    tmp_path: Path, arguments: tuple[object, ...], batch: int
) -> None:
    engine = write_engine(tmp_path, batch=(1, 4, 8))
    assert deploy(engine, "-o", tmp_path, *arguments) == 0
    config = parse(tmp_path / "model" / "config.pbtxt")
    assert config.max_batch_size == batch
    assert config.HasField("dynamic_batching")
    assert tensors(config.input) == {"images": ("TYPE_UINT8", [64, 96, 3])}
    count = next(output for output in config.output if output.name == "num_detections")
    # One number per image: Triton requires a dim, and removes it by the reshape.
    assert (list(count.dims), count.HasField("reshape"), list(count.reshape.shape)) == ([1], True, [])
    assert not any(output.HasField("reshape") for output in config.output if output.name != "num_detections")


def test_raw_heads_need_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = write_engine(tmp_path, postprocess="kernels", batch=(1, 2, 4))
    assert deploy(engine, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "--postprocess plugin" in error
    assert "--raw-heads" in error
    assert not (tmp_path / "out").exists()
    assert deploy(engine, "-o", tmp_path / "out", "--raw-heads") == 0
    folder = tmp_path / "out" / "model"
    assert "**The client must do decode and non-maximum suppression.**" in (folder / "README.md").read_text()
    config = parse(folder / "config.pbtxt")
    assert tensors(config.output) == {"cls_0": ("TYPE_FP16", [2, 8, 12]), "box_0": ("TYPE_FP16", [4, 8, 12])}


def test_the_sample_model_has_the_outputs_of_its_configuration(tmp_path: Path) -> None:
    """Triton would run the model with ONNX Runtime too."""
    assert deploy(MODEL, "-o", tmp_path) == 0
    folder = tmp_path / "treecrowns"
    file = folder / "1" / "model.onnx"
    assert file.read_bytes() == MODEL.read_bytes()
    config = parse(folder / "config.pbtxt")
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feeds = {name: np.zeros(dims, NUMPY[kind]) for name, (kind, dims) in tensors(config.input).items()}
    outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))
    expected = tensors(config.output)
    assert {name: list(value.shape) for name, value in outputs.items()} == {
        name: dims for name, (_, dims) in expected.items()
    }
    assert all(outputs[name].dtype == NUMPY[kind] for name, (kind, _) in expected.items())


def test_triton_batches_requests_for_an_onnx_with_a_dynamic_batch(tmp_path: Path) -> None:
    """The sample model gets a dynamic batch, as from ``export --batch dynamic``, because an export takes too long."""
    model = onnx.load(MODEL)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(model, tmp_path / "any.onnx")
    assert deploy(tmp_path / "any.onnx", "-o", tmp_path / "out", "--max-batch", 16) == 0
    config = parse(tmp_path / "out" / "any" / "config.pbtxt")
    assert config.max_batch_size == 16
    assert tensors(config.input) == {"images": ("TYPE_UINT8", [416, 736, 3])}
    assert tensors(config.output)["boxes"] == ("TYPE_FP32", [300, 4])
    assert config.HasField("dynamic_batching")


def test_a_second_model_of_the_same_name_replaces_the_first(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    assert deploy(engine, "-o", tmp_path, "--name", "a") == 0
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.pbtxt").write_text("another model")
    assert deploy(MODEL, "-o", tmp_path, "--name", "a") == 0
    assert [path.name for path in (tmp_path / "a" / "1").iterdir()] == ["model.onnx"]
    assert (tmp_path / "b" / "config.pbtxt").read_text() == "another model"
    assert deploy(engine, "-o", tmp_path, "--name", "a") == 0
    assert sorted(path.name for path in (tmp_path / "a" / "1").iterdir()) == ["model.plan", "model.plan.json"]


def test_class_names_may_contain_any_characters(tmp_path: Path) -> None:
    names = ('a "quoted"\\name', "one; and more", "Bäume 木", " ")
    engine = write_engine(tmp_path, contract=contract(classes=names))
    assert deploy(engine, "-o", tmp_path) == 0
    lines = (tmp_path / "model" / "labels.txt").read_text().splitlines()
    assert lines == ['a "quoted"\\name', "one, and more", "Bäume 木", "class 3"]
    text = (tmp_path / "model" / "config.pbtxt").read_text()
    assert text.isascii()
    config = parse(tmp_path / "model" / "config.pbtxt")
    assert json.loads(config.parameters["retina_edge.contract"].string_value)["class_names"] == list(names)


@pytest.mark.parametrize("text", ["", "plain", 'a"b\\c', "\n\t\0\x7f", "é木", "\\n", "'%$"])
def test_protobuf_reads_quoted_text_back(text: str) -> None:
    """The text is in a message of ONNX, because the messages of Triton may not be installed."""
    message = text_format.Parse(f"producer_name: {quoted(text)}", onnx.ModelProto())
    assert message.producer_name == text


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--name", "a/b"], "choose another with --name"),
        ({}, ["--name", ".."], "choose another with --name"),
        ({}, ["--name", ""], "choose another with --name"),
        ({}, ["--max-batch", "4"], "expected no value for a model with the fixed batch size 1"),
        ({"batch": (1, 2, 4)}, ["--max-batch", "5"], "expected at most 4"),
        ({"backend": "tensorrt-rtx"}, [], "do not load; build it with --backend tensorrt"),
    ],
)
def test_unsuitable_engines_and_options_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], arguments: list[str], message: str
) -> None:
    engine = write_engine(tmp_path, **changes)
    assert deploy(engine, "-o", tmp_path / "out", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pt", "expected MODEL.engine or MODEL.onnx"),
        ("missing.engine", "found no file"),
        ("x.onnx", "ONNX model"),
    ],
)
def test_files_that_are_not_models_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    if name != "missing.engine":
        (tmp_path / name).write_bytes(b"not a model")
    assert deploy(tmp_path / name, "-o", tmp_path / "out") == 1
    assert re.search(message, capsys.readouterr().err)
