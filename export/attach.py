"""Attach Decode, NMS and the contract to a network. This module needs onnx, but not torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import onnx
import onnx.helper
import onnx.numpy_helper

from engines import __version__
from engines.core.contract import DetectorContract
from engines.core.tensor_names import CANDIDATES, DOMAIN, OUTPUTS, PARAMETERS, head_names
from engines.onnx.onnx_executor import CONTRACT_KEY
from engines.plugins.parameters import pack_parameters
from export.functions import (
    DOMAIN_VERSION,
    decode_function,
    nms_function,
    num_candidates,
)


def attach(
    network: onnx.ModelProto, contract: DetectorContract, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """Return a copy of a network with Decode and NMS after its raw heads and the contract in the metadata.

    Args:
        network: ONNX network that returns raw heads.
        contract: contract of the detector.
        metadata: further metadata entries, such as the record of the quantization.

    Returns:
        The deployable ONNX.

    Examples:
        >>> from engines.onnx.deployable import contract_of, heads_only, read_deployable
        >>> from retina_edge.assets import MODEL
        >>> deployable = read_deployable(MODEL.read_bytes())
        >>> network = heads_only(deployable)
        >>> model = attach(network, contract_of(deployable))
        >>> [node.op_type for node in model.graph.node[-2:]], [output.name for output in model.graph.output]
        (['Decode', 'NMS'], ['num_detections', 'boxes', 'scores', 'labels'])
    """
    model = copy.deepcopy(network)
    graph = model.graph
    heads = head_names(len(contract.levels))
    graph.name = contract.architecture
    graph.initializer.append(onnx.numpy_helper.from_array(pack_parameters(contract), PARAMETERS))
    graph.node.append(_node("Decode", [*heads, PARAMETERS], CANDIDATES))
    graph.node.append(_node("NMS", [*CANDIDATES, PARAMETERS], OUTPUTS))
    size = graph.input[0].type.tensor_type.shape.dim[0]
    batch = size.dim_param or size.dim_value
    graph.value_info.extend(graph.output)
    graph.value_info.extend(_candidates(contract, batch))
    del graph.output[:]
    graph.output.extend(_outputs(contract, batch))
    (opset,) = (item.version for item in model.opset_import if not item.domain)
    for function in (decode_function(contract), nms_function(contract)):
        # A model and its functions must name the same opset. The operators used here are the same in opsets 18 and 19.
        function.opset_import[0].version = opset
        model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    model.producer_name, model.producer_version = "retina_edge", __version__
    onnx.helper.set_model_props(model, {CONTRACT_KEY: contract.to_json(), **(metadata or {})})
    return model


def _node(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    return onnx.helper.make_node(name, inputs, outputs, name=name, domain=DOMAIN)


def _candidates(contract: DetectorContract, batch: int | str) -> list[onnx.ValueInfoProto]:
    shape = [batch, num_candidates(contract)]
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32)
    shapes = (shape, [*shape, 4], shape)
    return list(map(onnx.helper.make_tensor_value_info, CANDIDATES, types, shapes))


def _outputs(contract: DetectorContract, batch: int | str) -> list[onnx.ValueInfoProto]:
    shape = [batch, contract.max_detections]
    types = (onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32)
    shapes = ([batch], [*shape, 4], shape, shape)
    return list(map(onnx.helper.make_tensor_value_info, OUTPUTS, types, shapes))
