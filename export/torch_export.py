"""The deployable ONNX: network, Decode and NMS, and the contract in its metadata; verified before it is written."""

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
    letterboxed, _ = letterbox_batch(images, contract.input_size)  # first, for it may refuse them
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
