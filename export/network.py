"""The network alone as ONNX: uint8 images in, raw heads out. Quantization works on this, before ``attach``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from engines.core.contract import DetectorContract
from engines.core.tensor_names import INPUT, head_names
from engines.onnx.deployable import name_convolutions
from export.errors import ExportError
from export.functions import OPSET
from export.preprocess import Preprocess


class Network(nn.Module):
    """Preprocessing and model in one module, the heads in the order of ``head_names``.

    Args:
        model: float [N, 3, H, W] to class logits and box deltas of each level, as two lists.
        contract: what the model promises.
    """

    def __init__(self, model: nn.Module, contract: DetectorContract) -> None:
        super().__init__()
        self.preprocess = Preprocess(contract)
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``images``: uint8 [N, H, W, 3], BGR, letterboxed."""
        cls_logits, box_deltas = self.model(self.preprocess(images))
        return (*cls_logits, *box_deltas)


def export_network(network: Network, contract: DetectorContract, *, batch: int | None) -> onnx.ModelProto:
    """Exports a network on the CPU in evaluation mode; ``batch`` None leaves the batch size open.

    Raises:
        ExportError: the heads have other shapes than the contract says.
    """
    names = head_names(len(contract.levels))
    # A batch of one would be taken for a constant when the size is to stay open.
    example = torch.zeros(batch or 2, *contract.input_size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=names,
        dynamic_shapes=None if batch else ({0: torch.export.Dim("N")},),
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_source(model)
    name_convolutions(model)
    _check_heads(model, contract)
    return model


def torch_heads(network: Network, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    """The raw heads of letterboxed images, uint8 [N, H, W, 3], by torch."""
    with torch.inference_mode():
        return [head.numpy() for head in network(torch.from_numpy(images))]


def _forget_source(model: onnx.ModelProto) -> None:
    """Drops the exporter's notes on where each node comes from: they name files of this machine."""
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.ClearField("doc_string")
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]


def _check_heads(model: onnx.ModelProto, contract: DetectorContract) -> None:
    expected = [
        [contract.num_anchors * rows, *level.feature_size]
        for rows in (contract.num_classes, 4)
        for level in contract.levels
    ]
    found = [[size.dim_value for size in output.type.tensor_type.shape.dim][1:] for output in model.graph.output]
    if found != expected:
        raise ExportError(
            f"the model's heads do not fit the contract: expected {expected} (channels, height, width; class "
            f"logits, then box deltas), got {found}"
        )
