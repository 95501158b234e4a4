"""The deployable ONNX: network, Decode and NMS, and the contract in its metadata; verified before it is written."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
from torch import nn

from engines.contract import DetectorContract, versions
from engines.files import atomic_file
from engines.letterbox import letterbox_batch
from engines.onnx_runtime import CONTRACT_KEY, OUTPUTS
from engines.plugins.parameters import pack_parameters
from export.functions import (
    DOMAIN,
    DOMAIN_VERSION,
    decode_function,
    head_names,
    nms_function,
    num_candidates,
)
from export.half_weights import store_half
from export.network import Network, export_network
from export.verify import Agreement, verify

PARAMETERS = "parameters"
CANDIDATES = ("candidate_logits", "candidate_boxes", "candidate_labels")
PACKAGES = ("retina-edge", "torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the file.
        size: of the file, bytes.
        batch: images it takes at a time, None for any number.
        contract: as it stands in the file.
        agreement: how far it is from torch, on the images it was verified with.
    """

    path: Path
    size: int
    batch: int | None
    contract: DetectorContract
    agreement: Agreement


def export_onnx(
    model: nn.Module,
    contract: DetectorContract,
    path: Path | str,
    *,
    batch: int | None,
    images: Sequence[npt.NDArray[Any]],
    half_weights: bool = False,
) -> ExportReport:
    """Exports, verifies, and writes a model.

    Args:
        model: float [N, 3, H, W] to class logits and box deltas of each level; it stays as it is.
        contract: what it promises.
        path: where to; an existing file is replaced at the very end, or not at all.
        batch: images at a time, None for any number.
        images: frames of any size, BGR uint8 [h, w, 3], to verify with; real ones, for on noise a detector
            finds nothing.
        half_weights: store the convolutions' weights in float16; computing stays in float32.

    Raises:
        ExportError: ONNX Runtime does not give what torch gives, the contract does not fit the model, or
            float16 cannot hold a weight.
        ValueError: no images, or a batch below one.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch: expected at least 1, or None for any number, got {batch}")
    if not images:
        raise ValueError("images: expected at least one to verify the export with, got none")
    contract = dataclasses.replace(contract, produced_by={**contract.produced_by, **versions(*PACKAGES)})
    network = Network(copy.deepcopy(model).cpu().float(), contract).eval()
    exported = export_network(network, contract, batch=batch)
    stored = store_half(exported) if half_weights else exported
    deployable = attach(stored, contract)
    onnx.checker.check_model(deployable, full_check=True)
    content = deployable.SerializeToString()
    letterboxed, _ = letterbox_batch(images, contract.input_size)
    agreement = verify(network, exported, stored, content, contract, letterboxed, batch=batch)
    path = Path(path)
    with atomic_file(path) as file:
        file.write(content)
    return ExportReport(path, len(content), batch, contract, agreement)


def attach(network: onnx.ModelProto, contract: DetectorContract) -> onnx.ModelProto:
    """A copy of a network with Decode and NMS behind its heads, and the contract in the metadata."""
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
    model.functions.extend([decode_function(contract), nms_function(contract)])
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    model.producer_name, model.producer_version = "retina_edge", importlib.metadata.version("retina-edge")
    onnx.helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
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
