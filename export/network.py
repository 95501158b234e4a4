"""Export the network alone: an ONNX from uint8 images to raw heads, before quantization and ``attach``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from engines.core.contract import DetectorContract
from engines.core.tensor_names import INPUT, head_names
from engines.onnx.deployable import name_convolutions
from export.batch_norm import fold_batch_norms
from export.color_order import fold_color_order
from export.errors import ExportError
from export.functions import OPSET
from export.preprocess import Preprocess


class Network(nn.Module):
    """A module of preprocessing and model, which returns the raw heads in the order of ``head_names``.

    Args:
        model: module from float [N, 3, H, W] to two lists: class logits and box deltas of each level.
        contract: contract of the model.
    """

    def __init__(self, model: nn.Module, contract: DetectorContract) -> None:
        super().__init__()
        self.preprocess = Preprocess(contract)
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the raw heads of letterboxed images, uint8 [N, H, W, 3], BGR."""
        cls_logits, box_deltas = self.model(self.preprocess(images))
        return (*cls_logits, *box_deltas)


def export_network(network: Network, contract: DetectorContract, *, batch: int | None) -> onnx.ModelProto:
    """Export a network to ONNX.

    Args:
        network: network to export, on the CPU and in evaluation mode.
        contract: contract of the model.
        batch: number of images in a batch; None for any number.

    Returns:
        ONNX model that returns raw heads. Each convolution is named after its weights. The exchange of blue and red of
        a model trained on RGB is folded into the first convolution, and batch normalizations are folded into the
        convolutions before them.

    Raises:
        ExportError: if the raw heads have other shapes than the contract requires.
    """
    names = head_names(len(contract.levels))
    # For an open batch size, the example must hold two images, because the exporter treats a size of one as constant.
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
    model = fold_color_order(program.model_proto)
    _forget_source(model)
    name_convolutions(model)
    model = fold_batch_norms(model)
    _check_heads(model, contract)
    return model


def torch_heads(network: Network, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    """Run a network in torch and return its raw heads.

    Args:
        network: network on the CPU, in evaluation mode.
        images: letterboxed images, uint8 [N, H, W, 3], BGR.
    """
    with torch.inference_mode():
        return [head.numpy() for head in network(torch.from_numpy(images))]


def _forget_source(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on the origin of each node, because they name files of this machine."""
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
    got = [[size.dim_value for size in output.type.tensor_type.shape.dim][1:] for output in model.graph.output]
    if got != expected:
        raise ExportError(
            f"the model's heads do not fit the contract: expected [channels, height, width] of class logits, then of "
            f"box deltas, {expected}, got {got}; correct the model or its contract"
        )
