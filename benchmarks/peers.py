"""The alternatives that a user would run: torchvision's RetinaNet, eager and compiled, and ONNX Runtime by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList

from benchmarks.networks import as_torch
from engines.core.errors import MissingDependencyError
from engines.core.letterbox import letterbox_batch
from engines.core.tensor_names import INPUT

Frame = npt.NDArray[np.uint8]
# Torchvision's detections in one image: ``boxes``, ``scores`` and ``labels``.
TorchDetections = dict[str, Tensor]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def torchvision_detect(
    model: RetinaNet,
    frame: Frame,
    size: int,
    *,
    device: str,
    dtype: torch.dtype,
    compiled: bool = False,
    tf32: bool = True,
) -> Callable[[], TorchDetections]:
    """Return a function that detects in a frame as torchvision's documentation shows it.

    The model runs in evaluation mode on the letterboxed frame; autocast lowers the precision.

    Args:
        model: torchvision's model, on the device.
        frame: frame to detect in, BGR uint8 [h, w, 3].
        size: side of the square input, pixels.
        device: ``cpu`` or ``cuda``.
        dtype: type of the arithmetic.
        compiled: run the model through torch.compile.
        tf32: allow convolutions in FP32 to round to TF32 on a GPU, as torch does by default.
    """
    if compiled:
        # Forget other input sizes. After a second size in a process, torch.compile takes minutes to compile for
        # symbolic sizes; a user has one size.
        torch.compiler.reset()
    run: Any = torch.compile(model) if compiled else model

    def detect() -> TorchDetections:
        image = as_torch(frame, (size, size)).to(device)
        with (
            torch.inference_mode(),
            torch.autocast(device, dtype, enabled=dtype != torch.float32),
            _allow_tf32(tf32),
        ):
            (detections,) = run([image])
        return to_cpu(detections)

    return detect


def onnx_by_hand(
    heads: bytes, model: RetinaNet, frame: Frame, size: int, *, device: str
) -> Callable[[], TorchDetections]:
    """Return a function that runs the network on ONNX Runtime with default options, then torchvision's post-processing.

    Raises:
        MissingDependencyError: if the installed ONNX Runtime cannot use the device.
    """
    provider = PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(heads, providers=[provider]) if provider in available else None
    # If a provider does not load, ONNX Runtime falls back to the CPU and only logs it.
    if session is None or session.get_providers()[0] != provider:
        providers = session.get_providers() if session else available
        raise MissingDependencyError(
            f"ONNX Runtime: expected its {provider}, found {', '.join(providers)}; install it with "
            "pip install onnxruntime-gpu"
        )
    postprocess = torchvision_postprocess(model, size)

    def detect() -> TorchDetections:
        images, _ = letterbox_batch([frame], (size, size))
        return to_cpu(postprocess([torch.from_numpy(head).to(device) for head in session.run(None, {INPUT: images})]))

    return detect


def torchvision_postprocess(model: RetinaNet, size: int) -> Callable[[list[Tensor]], TorchDetections]:
    """Return a function that runs ``RetinaNet.postprocess_detections`` on the raw heads of one image.

    It takes the class logits of each level, then the box deltas, and returns detections on the same device.
    """
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    anchors: list[Tensor] = []

    def postprocess(heads: list[Tensor]) -> TorchDetections:
        levels = len(heads) // 2
        logits, deltas = heads[:levels], heads[levels:]
        if not anchors:
            device = heads[0].device
            images.tensors = images.tensors.to(device)
            grid = model.anchor_generator(images, logits)[0]
            counts = [delta.shape[1] // 4 * delta.shape[2] * delta.shape[3] for delta in deltas]
            anchors.extend(grid.split(counts))
        per_anchor = model.anchor_generator.num_anchors_per_location()[0]
        outputs = {
            "cls_logits": [_by_anchor(level, per_anchor) for level in logits],
            "bbox_regression": [_by_anchor(level, per_anchor) for level in deltas],
        }
        with torch.inference_mode():
            (detections,) = model.postprocess_detections(outputs, [anchors], images.image_sizes)
        return dict(detections)

    return postprocess


def to_cpu(detections: TorchDetections) -> TorchDetections:
    """Copy detections to the CPU, which waits for the GPU."""
    return {name: value.cpu() for name, value in detections.items()}


@contextmanager
def _allow_tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 inside the block; the setting belongs to the process, so it is restored afterwards."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _by_anchor(head: Tensor, per_anchor: int) -> Tensor:
    """Rearrange a head, [1, A * C, h, w], to torchvision's order, [1, h * w * A, C]."""
    _, channels, height, width = head.shape
    split = head.view(1, per_anchor, channels // per_anchor, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(1, -1, channels // per_anchor)
