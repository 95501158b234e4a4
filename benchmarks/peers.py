"""What a user would run instead: torchvision's RetinaNet, eager and compiled, and ONNX Runtime by hand."""

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
Found = dict[str, Tensor]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def torchvisions(
    model: RetinaNet,
    frame: Frame,
    size: int,
    *,
    device: str,
    dtype: torch.dtype,
    compiled: bool = False,
    tf32: bool = True,
) -> Callable[[], Found]:
    """Its own eval mode on the letterboxed frame, as its documentation shows it; lower precision by autocast.

    Args:
        model: on the device.
        frame: BGR uint8 [h, w, 3].
        size: of the square input, pixels.
        device: ``cpu`` or ``cuda``.
        dtype: of the arithmetic.
        compiled: by torch.compile.
        tf32: whether convolutions in FP32 may round to TF32 on a GPU; torch's default is that they may.
    """
    if compiled:
        # Of this size only, as a user would: after a second one in the process it works on symbolic sizes, for minutes.
        torch.compiler.reset()
    run: Any = torch.compile(model) if compiled else model

    def detect() -> Found:
        image = as_torch(frame, (size, size)).to(device)
        with (
            torch.inference_mode(),
            torch.autocast(device, dtype, enabled=dtype != torch.float32),
            _allowing_tf32(tf32),
        ):
            (found,) = run([image])
        return on_the_cpu(found)

    return detect


def onnx_by_hand(heads: bytes, model: RetinaNet, frame: Frame, size: int, *, device: str) -> Callable[[], Found]:
    """The network alone on ONNX Runtime, with default options, and torchvision's post-processing behind it.

    Raises:
        MissingDependencyError: this ONNX Runtime cannot use the device.
    """
    provider = PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    session = onnxruntime.InferenceSession(heads, providers=[provider]) if provider in available else None
    # Where a provider does not load, ONNX Runtime takes the CPU and only logs it.
    if session is None or session.get_providers()[0] != provider:
        found = session.get_providers() if session else available
        raise MissingDependencyError(
            f"ONNX Runtime: expected its {provider}, found {', '.join(found)}; install it with "
            "pip install onnxruntime-gpu"
        )
    postprocess = torchvision_postprocess(model, size)

    def detect() -> Found:
        images, _ = letterbox_batch([frame], (size, size))
        return on_the_cpu(
            postprocess([torch.from_numpy(head).to(device) for head in session.run(None, {INPUT: images})])
        )

    return detect


def torchvision_postprocess(model: RetinaNet, size: int) -> Callable[[list[Tensor]], Found]:
    """``RetinaNet.postprocess_detections`` on raw heads of one image: class logits of each level, then box deltas.

    Where the heads are, there the detections are.
    """
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    anchors: list[Tensor] = []

    def postprocess(heads: list[Tensor]) -> Found:
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
            (found,) = model.postprocess_detections(outputs, [anchors], images.image_sizes)
        return dict(found)

    return postprocess


def on_the_cpu(found: Found) -> Found:
    """Copied there, which waits for the GPU."""
    return {name: value.cpu() for name, value in found.items()}


@contextmanager
def _allowing_tf32(allowed: bool) -> Iterator[None]:
    """The setting belongs to the process, so each run sets it and puts it back."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _by_anchor(head: Tensor, per_anchor: int) -> Tensor:
    """[1, A * C, h, w] to [1, h * w * A, C], torchvision's order."""
    _, channels, height, width = head.shape
    split = head.view(1, per_anchor, channels // per_anchor, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(1, -1, channels // per_anchor)
