"""The deployable ONNX taken apart, for the quantizer and for TensorRT."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError, ModelFileError
from engines.core.tensor_names import DOMAIN, PARAMETERS
from engines.onnx.onnx_executor import CONTRACT_KEY
from engines.plugins.launch import Launch

DECODE, NMS = "Decode", "NMS"


def read_deployable(content: bytes) -> onnx.ModelProto:
    """The model of an ONNX file's content.

    Raises:
        ModelFileError: it is none.
    """
    try:
        model = onnx.load_from_string(content)
    except (ValueError, DecodeError) as error:
        raise ModelFileError(f"expected an ONNX model, found {len(content)} bytes that are none ({error})") from error
    if not model.graph.node:
        raise ModelFileError("expected an ONNX model, found one without nodes; export the model again")
    return model


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """What a model carries beside its graph."""
    return {item.key: item.value for item in model.metadata_props}


def record_of(model: onnx.ModelProto, key: str) -> dict[str, Any] | None:
    """The JSON object under a key of the metadata, None where there is none."""
    text = metadata_of(model).get(key)
    record: dict[str, Any] | None = json.loads(text) if text else None
    return record


def contract_of(deployable: onnx.ModelProto) -> DetectorContract:
    """The contract in a deployable's metadata.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    metadata = metadata_of(deployable)
    if CONTRACT_KEY not in metadata:
        raise ModelFileError(
            f"expected the contract in the ONNX metadata under {CONTRACT_KEY!r}, found none; "
            "only models written by retina-edge export can be used"
        )
    try:
        return DetectorContract.from_json(metadata[CONTRACT_KEY])
    except ContractError as error:
        raise ModelFileError(str(error)) from error


def replace_items(field: Any, items: Iterable[Any]) -> None:
    """Puts other items into a repeated field of a protobuf message, which cannot be assigned to."""
    items = list(items)  # they may come from the field itself
    del field[:]
    field.extend(items)


def heads_only(deployable: onnx.ModelProto) -> onnx.ModelProto:
    """The network alone, raw heads out: the inverse of ``export.attach.attach``, metadata and all.

    Raises:
        ModelFileError: Decode and NMS are not where retina-edge export puts them.
    """
    model = copy.deepcopy(deployable)
    graph = model.graph
    nodes = {node.op_type: node for node in graph.node if node.domain == DOMAIN}
    if sorted(nodes) != [DECODE, NMS]:
        raise ModelFileError(
            f"expected one Decode and one NMS node of the domain {DOMAIN!r}, found {sorted(nodes) or 'none'}; "
            "export the model again with retina-edge export"
        )
    *heads, parameters = nodes[DECODE].input
    network = [node for node in graph.node if node.domain != DOMAIN]
    weights = [tensor for tensor in graph.initializer if tensor.name != parameters]
    outside = {*nodes[DECODE].output, *nodes[NMS].output}
    shapes = {info.name: info for info in graph.value_info}
    outputs = [shapes[name] for name in heads]
    rest = [info for name, info in shapes.items() if name not in outside and name not in heads]
    replace_items(graph.node, network)
    replace_items(graph.initializer, weights)
    replace_items(graph.output, outputs)
    replace_items(graph.value_info, rest)
    replace_items(model.opset_import, [item for item in model.opset_import if item.domain != DOMAIN])
    del model.functions[:]
    del model.metadata_props[:]
    name_convolutions(model)
    return model


def name_convolutions(model: onnx.ModelProto) -> None:
    """Gives each convolution the name of its weights, and where several share them, as the heads do, a level.

    So ``head.classification_head.cls_logits:0`` and not ``node_conv2d_25`` is what passports, tables and errors say.
    A quantized network was named before, and its weights have other names now: it stays as it is.
    """
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = [node.input[1].removeprefix("model.").removesuffix(".weight") for node in nodes]
    uses = Counter[str]()
    for node, name in zip(nodes, weights, strict=True):
        node.name = f"{name}:{uses[name]}" if weights.count(name) > 1 else name
        uses[name] += 1


def with_plugins(
    network: onnx.ModelProto, launches: Sequence[Launch], names: Sequence[str], parameters: npt.NDArray[np.float32]
) -> onnx.ModelProto:
    """A copy of a network of raw heads with a node for each kernel launch behind them, detections out.

    Args:
        network: from ``heads_only``, of a fixed batch size.
        launches: of that batch size.
        names: of the plugins, one for each launch.
        parameters: what Decode and NMS read.
    """
    model = copy.deepcopy(network)
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(parameters, PARAMETERS))
    graph.value_info.extend(graph.output)
    for launch, name in zip(launches, names, strict=True):
        written = [output.name for output in launch.outputs]
        # Of the parser: the namespace to look in, and only ahead of time.
        plugin: dict[str, Any] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}
        graph.node.append(onnx.helper.make_node(name, launch.inputs, written, name=name, domain=DOMAIN, **plugin))
    types = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
    outputs = launches[-1].outputs
    replace_items(
        graph.output, [onnx.helper.make_tensor_value_info(item.name, types[item.dtype], item.shape) for item in outputs]
    )
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return model


def postprocess_only(deployable: onnx.ModelProto) -> onnx.ModelProto:
    """Decode and NMS alone, raw heads in, detections out: what ``heads_only`` leaves out."""
    model = copy.deepcopy(deployable)
    graph = model.graph
    nodes = [node for node in graph.node if node.domain == DOMAIN]
    *heads, parameters = next(node for node in nodes if node.op_type == DECODE).input
    shapes = {info.name: info for info in graph.value_info}
    inputs = [shapes[name] for name in heads]
    weights = [tensor for tensor in graph.initializer if tensor.name == parameters]
    replace_items(graph.node, nodes)
    replace_items(graph.initializer, weights)
    replace_items(graph.input, inputs)
    del graph.value_info[:]
    return model


def batch_of(model: onnx.ModelProto) -> int | None:
    """The batch size a model takes, None for any."""
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy of a model of any batch size that takes just this one; TensorRT tunes for a fixed size best."""
    model = copy.deepcopy(model)
    open_size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if open_size and dim.dim_param == open_size:
                dim.dim_value = batch
    return model


def head_types(network: onnx.ModelProto) -> set[str]:
    """Element types of a network's outputs: float, float16."""
    return {_type_name(output.type.tensor_type.elem_type) for output in network.graph.output}


def convolution_precisions(model: onnx.ModelProto) -> dict[str, str]:
    """Precision of each convolution by its node's name: fp32, fp16, or int8 where both operands are dequantized."""
    producers = {name: node for node in model.graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {
        node.name: _convolution_precision(node, producers, types)
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    }


def describe(tensors: Iterable[onnx.ValueInfoProto]) -> tuple[dict[str, Any], ...]:
    """Name, type and shape of inputs or outputs, -1 for an open size."""
    return tuple(
        {
            "name": tensor.name,
            "type": _type_name(tensor.type.tensor_type.elem_type),
            "shape": [dim.dim_value or -1 for dim in tensor.type.tensor_type.shape.dim],
        }
        for tensor in tensors
    )


def _convolution_precision(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], types: dict[str, int]) -> str:
    sources = [producers.get(name) for name in node.input[:2]]
    if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
        return "int8"
    weights = node.input[1]
    source = producers.get(weights)
    if source is not None and source.op_type == "Cast":  # stored in half, computed in the type it is cast to
        kind = source.attribute[0].i
    elif source is not None and source.op_type == "DequantizeLinear":  # typed by its scale
        kind = types[source.input[1]]
    else:
        kind = types.get(weights, onnx.TensorProto.UNDEFINED)
    return {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}.get(kind, "unknown")


def _type_name(element_type: int) -> str:
    return onnx.helper.tensor_dtype_to_string(element_type).rpartition(".")[2].lower()
