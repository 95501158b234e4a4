"""Export the deployable ONNX: network, Decode, NMS and contract in one file, verified before it is written."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx.checker
from torch import nn

from engines.core.atomic_file import atomic_file
from engines.core.contract import DetectorContract, package_versions
from engines.core.letterbox import letterbox_batch
from export.attach import attach
from export.half_weights import store_half
from export.network import Network, export_network, torch_heads
from export.verify import Agreement, verify

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportReport:
    """The report of an export.

    Attributes:
        path: path of the ONNX file.
        size: size of the file, bytes.
        batch: number of images in a batch; None for any number.
        contract: contract in the file.
        agreement: largest differences from torch and from the specification, on the images of the verification.
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
    """Export a model to a deployable ONNX, verify the ONNX, and write it.

    Args:
        model: module from float32 [N, 3, H, W] to two lists: class logits and box deltas of each level. It is not
            modified.
        contract: contract of the model.
        path: path of the ONNX file. An existing file is overwritten at the very end, or not at all.
        batch: number of images in a batch; None for any number.
        images: frames of any size to verify with, uint8 [h, w, 3], BGR. Use real frames, because a detector finds
            nothing in noise.
        half_weights: True to store the weights of the convolutions in float16; computation stays in float32.

    Returns:
        The report of the export.

    Raises:
        ExportError: if ONNX Runtime differs from torch, the contract does not fit the model, or a weight is too large
            for float16.
        ValueError: if there are no images, or ``batch`` is less than 1.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch: expected at least 1, or None for any number, got {batch}")
    if not images:
        raise ValueError("images: expected at least one to verify the export with, got none")
    letterboxed, _ = letterbox_batch(images, contract.input_size)  # first, because it may refuse the images
    contract = dataclasses.replace(contract, produced_by={**contract.produced_by, **package_versions(*PACKAGES)})
    network = Network(copy.deepcopy(model).cpu().float(), contract).eval()
    exported = export_network(network, contract, batch=batch)
    stored = store_half(exported) if half_weights else exported
    deployable = attach(stored, contract)
    onnx.checker.check_model(deployable, full_check=True)
    content = deployable.SerializeToString()
    agreement = verify(
        lambda chunk: torch_heads(network, chunk), exported, stored, content, contract, letterboxed, batch=batch
    )
    path = Path(path)
    with atomic_file(path) as file:
        file.write(content)
    return ExportReport(path, len(content), batch, contract, agreement)
