"""Tests of the ONNX for TensorRT, with the kernels as plugins, and of the checks of the parsed network.

Plugins need TensorRT itself, which is not installed here. The tests use the parser of TensorRT-RTX, which looks up
plugins by the same rules but cannot contain them. A stand-in replaces the parsed network, and the kernels of the nodes
run on the CPU.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest

from engines.core.errors import BuildError
from engines.core.letterbox import letterbox_batch
from engines.core.tensor_names import DOMAIN, INPUT, OUTPUTS
from engines.plugins.specification import detections_of
from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.engine_network import EngineNetwork, prepare
from engines.tensorrt.plugin_definitions import plugin_name
from tests.engines.plugins.emulated import needs_compiler, run_kernel

Frames = list[npt.NDArray[np.uint8]]
PLUGIN = BuildOptions(postprocess="plugin")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def prepared(request: pytest.FixtureRequest, small_models: Path) -> EngineNetwork:
    content = (small_models / f"{request.param}.onnx").read_bytes()
    return prepare(content, dataclasses.replace(PLUGIN, precision=request.param))


@pytest.fixture(scope="module")
def model(prepared: EngineNetwork) -> onnx.ModelProto:
    return onnx.load_from_string(prepared.model)


def test_three_plugins_replace_decode_and_nms(prepared: EngineNetwork, model: onnx.ModelProto) -> None:
    assert prepared.postprocess == "plugin"
    ours = [node for node in model.graph.node if node.domain]
    assert [node.op_type for node in ours] == [plugin_name(launch) for launch in prepared.launches]
    kind = "f16" if prepared.contract.precision == "fp16" else "f32"
    wanted = [f"filter_{kind}_5", f"select_{kind}_5", "nms"]
    assert [node.op_type.rpartition("_")[0] for node in ours] == wanted
    # TensorRT would use a function instead of the plugin, and would treat further attributes as fields of the plugin.
    assert not model.functions
    for node in ours:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        assert attributes == {"plugin_namespace": DOMAIN.encode(), "plugin_version": b"1", "aot": 1}
    assert tuple(output.name for output in model.graph.output) == OUTPUTS
    onnx.checker.check_model(model)


@needs_compiler
def test_the_plugin_nodes_compute_the_detections_of_the_specification(
    prepared: EngineNetwork, model: onnx.ModelProto, small_models: Path, frames: Frames
) -> None:
    """Run the kernel of each plugin node on the inputs that the ONNX connects to the node."""
    contract = prepared.contract
    images, _ = letterbox_batch(frames[:1], contract.input_size)
    network = prepare((small_models / "fp32.onnx").read_bytes(), BuildOptions(postprocess="kernels")).model
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    kind = np.float16 if prepared.geometry.half else np.float32
    heads = [head.astype(kind) for head in session.run(None, {INPUT: images})]
    tensors: dict[str, npt.NDArray[Any]] = dict(zip(names, heads, strict=True))
    tensors |= {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    launches = {plugin_name(launch): launch for launch in prepared.launches}
    for node in (node for node in model.graph.node if node.domain):
        outputs = run_kernel(launches[node.op_type], [tensors[name] for name in node.input])
        tensors |= dict(zip(node.output, outputs, strict=True))
    expected = detections_of(heads, contract)
    assert expected.num_detections[0] > 10
    for name in ("num_detections", "labels"):
        np.testing.assert_array_equal(tensors[name], getattr(expected, name))
    np.testing.assert_allclose(tensors["boxes"], expected.boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(tensors["scores"], expected.scores, rtol=0, atol=1e-6)


# Registers creators one after the other, and after each one parses every file.
RECORDER = """
import json, sys
import tensorrt_rtx as trt

class Creator(trt.IPluginCreatorV3One):
    def __init__(self, name, namespace):
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_namespace, self.plugin_version = name, namespace, "1"
        self.field_names = trt.PluginFieldCollection([])
    def create_plugin(self, name, fields, phase):
        calls.append([self.name, self.plugin_namespace, name, [field.name for field in fields], phase.name])
        return None  # a plugin written in Python would crash the process

names, files = json.loads(sys.argv[1])
creators = [Creator(*pair) for pair in names]  # the registry does not own them
for creator in creators:
    calls = []
    trt.get_plugin_registry().register_creator(creator, creator.plugin_namespace)
    for file in files:
        builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, builder.logger)
        assert not parser.parse(open(file, "rb").read())
    print(json.dumps(calls), flush=True)
"""


def test_the_parser_looks_up_each_plugin_by_name_and_namespace(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Parse each node alone, because the parser stops at the first node that yields no plugin."""
    nodes = [node for node in model.graph.node if node.domain]
    files = [tmp_path / f"{node.op_type}.onnx" for node in nodes]
    for node, file in zip(nodes, files, strict=True):
        onnx.save(alone(node, model), file)
    creators = [("another", DOMAIN), *((node.op_type, "another") for node in nodes)]
    creators += [(node.op_type, DOMAIN) for node in nodes]
    command = [sys.executable, "-c", RECORDER, json.dumps([creators, list(map(str, files))])]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    *others, first, second, third = [json.loads(line) for line in run.stdout.splitlines()]
    assert others == [[]] * 4
    # Each file calls the creator of its node, as soon as this creator is registered.
    calls = [[node.op_type, DOMAIN, node.op_type, [], "BUILD"] for node in nodes]
    assert [first, second, third] == [calls[:1], calls[:2], calls]


def alone(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that contains only one node of a model."""
    known = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inner = {"keys": onnx.TensorProto.INT32, "index": onnx.TensorProto.INT32, "count": onnx.TensorProto.INT32}
    inputs = []
    for name in node.input:
        if name not in weights:
            kind = known[name].type.tensor_type.elem_type if name.startswith(("cls", "box")) else inner.get(name, 1)
            inputs.append(onnx.helper.make_tensor_value_info(name, kind, [1, 2, 3]))
    outputs = list(map(onnx.helper.make_empty_tensor_value_info, node.output))
    used = [weights[name] for name in node.input if name in weights]
    graph = onnx.helper.make_graph([node], "alone", inputs, outputs, used)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def tensor(shape: Sequence[int], dtype: str) -> SimpleNamespace:
    return SimpleNamespace(shape=tuple(shape), dtype=SimpleNamespace(name=dtype))


def tensor_of(info: onnx.ValueInfoProto) -> SimpleNamespace:
    kinds: dict[int, str] = {
        onnx.TensorProto.FLOAT: "FLOAT",
        onnx.TensorProto.FLOAT16: "HALF",
        onnx.TensorProto.INT32: "INT32",
        onnx.TensorProto.UINT8: "UINT8",
    }
    kind = info.type.tensor_type
    return tensor([dim.dim_value for dim in kind.shape.dim], kinds.get(kind.elem_type, "another"))


class Parsed:
    """A stand-in for the network that TensorRT's parser should make of the ONNX; tests may change its layers."""

    def __init__(self, prepared: EngineNetwork, model: onnx.ModelProto) -> None:
        self.inputs = list(map(tensor_of, model.graph.input))
        self.outputs = list(map(tensor_of, model.graph.output))
        known = {info.name: tensor_of(info) for info in model.graph.value_info}
        known |= {item.name: tensor(item.dims, "FLOAT") for item in model.graph.initializer}
        self.layers = [self.layer("conv", "CONVOLUTION", [], [])]
        for node, launch in zip((node for node in model.graph.node if node.domain), prepared.launches, strict=True):
            for output in launch.outputs:
                known[output.name] = tensor(output.shape, {"int32": "INT32", "float32": "FLOAT"}[output.dtype])
            inputs, outputs = [known[name] for name in node.input], [known[name] for name in node.output]
            self.layers.append(self.layer(node.name, "PLUGIN_V3", inputs, outputs))

    @staticmethod
    def layer(name: str, kind: str, inputs: list[Any], outputs: list[Any]) -> SimpleNamespace:
        return SimpleNamespace(
            name=name,
            type=SimpleNamespace(name=kind),
            num_inputs=len(inputs),
            num_outputs=len(outputs),
            get_input=inputs.__getitem__,
            get_output=outputs.__getitem__,
        )

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]

    def get_layer(self, index: int) -> Any:
        return self.layers[index]


def test_the_expected_network_passes(prepared: EngineNetwork, model: onnx.ModelProto) -> None:
    prepared.check(Parsed(prepared, model))


def test_a_missing_plugin_is_an_error(prepared: EngineNetwork, model: onnx.ModelProto) -> None:
    parsed = Parsed(prepared, model)
    del parsed.layers[2]
    with pytest.raises(BuildError, match=r"plugins: expected \['filter_f.*got \['filter_f"):
        prepared.check(parsed)
    parsed.layers = parsed.layers[:1]
    with pytest.raises(BuildError, match="got none from TensorRT's parser"):
        prepared.check(parsed)


def test_a_plugin_input_of_another_type_is_an_error(prepared: EngineNetwork, model: onnx.ModelProto) -> None:
    parsed = Parsed(prepared, model)
    parsed.layers[1].get_input(0).dtype = SimpleNamespace(name="BF16")
    with pytest.raises(BuildError, match=r"inputs of filter_f\d\d_5_\w+: expected .* got .*'BF16'"):
        prepared.check(parsed)


def test_outputs_of_another_shape_are_an_error(prepared: EngineNetwork, model: onnx.ModelProto) -> None:
    parsed = Parsed(prepared, model)
    parsed.outputs[1].shape = (1, 100, 4)
    with pytest.raises(BuildError, match=r"outputs: expected .*300, 4.*got .*100, 4"):
        prepared.check(parsed)


def test_an_input_of_another_type_is_an_error(prepared: EngineNetwork, model: onnx.ModelProto) -> None:
    parsed = Parsed(prepared, model)
    parsed.inputs[0].dtype = SimpleNamespace(name="FLOAT")
    with pytest.raises(BuildError, match=r"input: expected .*UINT8.* got .*FLOAT"):
        prepared.check(parsed)
