"""The deployable ONNX taken apart, for the quantiser and for TensorRT. Of engines, only this module needs onnx."""

from __future__ import annotations

import copy

import onnx

from engines.contract import DetectorContract
from engines.errors import ContractError, ModelFileError
from engines.onnx_runtime import CONTRACT_KEY

# The domain of Decode and NMS.
DOMAIN = "retina_edge"
# JSON object in the metadata of an INT8 model: how it was calibrated; see export.quantization.
QUANTIZATION_KEY = "retina_edge.quantization"
DECODE, NMS = "Decode", "NMS"


def contract_of(deployable: onnx.ModelProto) -> DetectorContract:
    """The contract in a deployable's metadata.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    metadata = {item.key: item.value for item in deployable.metadata_props}
    if CONTRACT_KEY not in metadata:
        raise ModelFileError(
            f"expected the contract in the ONNX metadata under {CONTRACT_KEY!r}, found none; "
            "only models written by retina-edge export can be used"
        )
    try:
        return DetectorContract.from_json(metadata[CONTRACT_KEY])
    except ContractError as error:
        raise ModelFileError(str(error)) from error


def heads_only(deployable: onnx.ModelProto) -> onnx.ModelProto:
    """The network alone, raw heads out: the inverse of ``export.deployable.attach``, metadata and all.

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
    for field, kept in (
        (graph.node, network),
        (graph.initializer, weights),
        (graph.output, outputs),
        (graph.value_info, rest),
    ):
        del field[:]
        field.extend(kept)
    del model.functions[:]
    del model.metadata_props[:]
    domains = [item for item in model.opset_import if item.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(domains)
    return model
