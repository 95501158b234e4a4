"""Read a deployable ONNX and take it apart, for the quantizer and for TensorRT."""

from __future__ import annotations

import copy
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
from engines.core.errors import ContractError, ModelFileError, reason_of
from engines.core.json_form import read_json
from engines.core.records import FORMS
from engines.core.tensor_names import DOMAIN, PARAMETERS
from engines.onnx.onnx_check import check_onnx
from engines.onnx.onnx_executor import CONTRACT_KEY
from engines.plugins.launch import Launch

DECODE, NMS = "Decode", "NMS"


def read_deployable(content: bytes) -> onnx.ModelProto:
    """Parse the content of an ONNX file.

    Raises:
        ModelFileError: if the content is not an ONNX model, or not one to run; see ``check_onnx``.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> model = read_deployable(MODEL.read_bytes())
        >>> [tensor.name for tensor in model.graph.output]
        ['num_detections', 'boxes', 'scores', 'labels']
    """
    check_onnx(content)
    try:
        return onnx.load_from_string(content)
    except (ValueError, DecodeError) as error:
        raise ModelFileError(
            f"expected an ONNX model, got {len(content)} bytes that are not one ({reason_of(error)})"
        ) from error


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of an ONNX model.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> list(metadata_of(read_deployable(MODEL.read_bytes())))
        ['retina_edge.contract']
    """
    return {item.key: item.value for item in model.metadata_props}


def record_of(model: onnx.ModelProto, key: str) -> dict[str, Any] | None:
    """Return the record under a key of the metadata, or None if the model has no such record.

    Args:
        model: model of the metadata.
        key: ``QUANTIZATION_KEY`` or ``ACCURACY_KEY``.

    Raises:
        ModelFileError: if the record is damaged.

    Examples:
        >>> from engines.core.tensor_names import QUANTIZATION_KEY
        >>> model = onnx.ModelProto()
        >>> onnx.helper.set_model_props(model, {QUANTIZATION_KEY: '{"layout": "tensorrt"}'})
        >>> record_of(model, QUANTIZATION_KEY)
        {'layout': 'tensorrt'}
    """
    text = metadata_of(model).get(key)
    try:
        return read_json(text, FORMS[key], what=key, fix="export the model again") if text else None
    except ContractError as error:
        raise ModelFileError(str(error)) from error


def contract_of(deployable: onnx.ModelProto) -> DetectorContract:
    """Return the contract in the metadata of a deployable ONNX.

    Raises:
        ModelFileError: if the contract is missing or damaged.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> contract = contract_of(read_deployable(MODEL.read_bytes()))
        >>> contract.input_size, contract.class_names, contract.precision
        ((416, 736), ('tree',), 'fp32')
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
    """Replace the items of a repeated field of a protobuf message, because such a field cannot be assigned.

    Examples:
        >>> graph = onnx.GraphProto(node=[onnx.helper.make_node("Relu", ["x"], ["y"])])
        >>> replace_items(graph.node, [onnx.helper.make_node("Sigmoid", ["x"], ["y"])])
        >>> [node.op_type for node in graph.node]
        ['Sigmoid']
    """
    items = list(items)  # a copy, because the items may come from the field itself
    del field[:]
    field.extend(items)


def heads_only(deployable: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the model that ends at the raw heads, without Decode, NMS and metadata.

    This is the inverse of ``export.attach.attach``, except that ``name_convolutions`` names the convolutions.

    Raises:
        ModelFileError: if the model does not have exactly one Decode and one NMS node.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> network = heads_only(read_deployable(MODEL.read_bytes()))
        >>> [tensor.name for tensor in network.graph.output]
        ['cls_0', 'cls_1', 'cls_2', 'cls_3', 'box_0', 'box_1', 'box_2', 'box_3']
    """
    model = copy.deepcopy(deployable)
    graph = model.graph
    nodes = {node.op_type: node for node in graph.node if node.domain == DOMAIN}
    if sorted(nodes) != [DECODE, NMS]:
        raise ModelFileError(
            f"expected one Decode and one NMS node of the domain {DOMAIN!r}, got {sorted(nodes) or 'neither'}; "
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
    """Name each convolution after its weights, so that passports, tables and errors are readable.

    For instance, ``node_conv2d_25`` becomes ``head.classification_head.cls_logits:0``. Convolutions that share weights,
    such as those of the heads, are numbered by level. A quantized network is left unchanged, because its convolutions
    were named before quantization renamed its weights.

    Examples:
        >>> node = onnx.helper.make_node("Conv", ["images", "model.backbone.conv1.weight"], ["y"], name="node_conv2d")
        >>> model = onnx.ModelProto(graph=onnx.GraphProto(node=[node]))
        >>> name_convolutions(model)
        >>> model.graph.node[0].name
        'backbone.conv1'
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
    """Return a copy of a network with a plugin node for each kernel launch after its raw heads.

    The copy returns detections.

    Args:
        network: network that ends at the raw heads, from ``heads_only``, with a fixed batch size.
        launches: kernel launches for the same batch size.
        names: names of the plugins, one for each launch.
        parameters: parameters of decode and NMS, from ``pack_parameters``.
    """
    model = copy.deepcopy(network)
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(parameters, PARAMETERS))
    graph.value_info.extend(graph.output)
    for launch, name in zip(launches, names, strict=True):
        written = [output.name for output in launch.outputs]
        # TensorRT's parser finds the plugin by its namespace and version; "aot" means compiled ahead of time.
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
    """Return a model of Decode and NMS alone, from raw heads to detections: the part that ``heads_only`` removes.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> model = postprocess_only(read_deployable(MODEL.read_bytes()))
        >>> [node.op_type for node in model.graph.node]
        ['Decode', 'NMS']
    """
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
    """Return the batch size of a model, or None if the model takes any batch size.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> batch_of(read_deployable(MODEL.read_bytes()))
        1
    """
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return a copy of a model in which ``batch`` replaces an open batch size.

    TensorRT optimizes a network best for a fixed size.

    Examples:
        >>> images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 32, 32, 3])
        >>> model = onnx.ModelProto(graph=onnx.GraphProto(input=[images]))
        >>> batch_of(model), batch_of(fix_batch(model, 4))
        (None, 4)
    """
    model = copy.deepcopy(model)
    open_size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if open_size and dim.dim_param == open_size:
                dim.dim_value = batch
    return model


def head_types(network: onnx.ModelProto) -> set[str]:
    """Return the element types of a network's outputs, such as ``float`` and ``float16``.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> head_types(heads_only(read_deployable(MODEL.read_bytes())))
        {'float'}
    """
    return {_type_name(output.type.tensor_type.elem_type) for output in network.graph.output}


def convolution_precisions(model: onnx.ModelProto) -> dict[str, str]:
    """Return the precision of each convolution by the name of its node: fp32, fp16, int8 or unknown.

    A convolution is in int8 if both its input and its weights come from a DequantizeLinear.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> precisions = convolution_precisions(heads_only(read_deployable(MODEL.read_bytes())))
        >>> precisions["head.classification_head.cls_logits:0"]
        'fp32'
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {
        node.name: _convolution_precision(node, producers, types)
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    }


def describe(tensors: Iterable[onnx.ValueInfoProto]) -> tuple[dict[str, Any], ...]:
    """Describe inputs or outputs by name, type and shape; -1 stands for an open size.

    Examples:
        >>> images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 32, 32, 3])
        >>> describe([images])
        ({'name': 'images', 'type': 'uint8', 'shape': [-1, 32, 32, 3]},)
    """
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
    if source is not None and source.op_type == "Cast":  # stored in float16, cast to the type of the arithmetic
        kind = source.attribute[0].i
    elif source is not None and source.op_type == "DequantizeLinear":  # its result has the type of its scale
        kind = types[source.input[1]]
    else:
        kind = types.get(weights, onnx.TensorProto.UNDEFINED)
    return {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}.get(kind, "unknown")


def _type_name(element_type: int) -> str:
    return onnx.helper.tensor_dtype_to_string(element_type).rpartition(".")[2].lower()
