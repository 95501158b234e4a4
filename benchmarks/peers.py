"""What a user would run instead: torchvision's RetinaNet, eager and compiled, and ONNX Runtime by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList

from engines.letterbox import letterbox_batch
from engines.names import INPUT

Frame = npt.NDArray[np.uint8]
Found = dict[str, Tensor]


def torchvisions(
    model: RetinaNet, frame: Frame, size: int, *, device: str, dtype: torch.dtype, compiled: bool = False
) -> Callable[[], Found]:
    """Its own eval mode on the letterboxed frame, as its documentation shows it; lower precision by autocast."""
    run: Any = torch.compile(model) if compiled else model

    def detect() -> Found:
        images, _ = letterbox_batch([frame], (size, size))
        image = torch.from_numpy(cv2.cvtColor(images[0], cv2.COLOR_BGR2RGB)).to(device).permute(2, 0, 1).float() / 255
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            (found,) = run([image])
        return {name: value.cpu() for name, value in found.items()}

    return detect


def onnx_by_hand(heads: bytes, model: RetinaNet, frame: Frame, size: int) -> Callable[[], Found]:
    """The network alone on ONNX Runtime, with default options, and torchvision's post-processing behind it."""
    session = onnxruntime.InferenceSession(heads, providers=["CPUExecutionProvider"])
    postprocess = torchvision_postprocess(model, size)

    def detect() -> Found:
        images, _ = letterbox_batch([frame], (size, size))
        return postprocess([torch.from_numpy(head) for head in session.run(None, {INPUT: images})])

    return detect


def torchvision_postprocess(model: RetinaNet, size: int) -> Callable[[list[Tensor]], Found]:
    """``RetinaNet.postprocess_detections`` on raw heads of one image: class logits of each level, then box deltas."""
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
        return {name: value.cpu() for name, value in found.items()}

    return postprocess


def _by_anchor(head: Tensor, per_anchor: int) -> Tensor:
    """[1, A * C, h, w] to [1, h * w * A, C], torchvision's order."""
    _, channels, height, width = head.shape
    split = head.view(1, per_anchor, channels // per_anchor, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(1, -1, channels // per_anchor)
