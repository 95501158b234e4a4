"""Decode and NMS as NumPy: the specification that the ONNX functions and the CUDA kernels are held against.

The semantics are those of torchvision's RetinaNet (``postprocess_detections``; Lin et al., "Focal Loss for Dense
Object Detection", arXiv 1708.02002, section 4, "Inference"), made deterministic by a total order of candidates:
logit descending, then level, then index in the level's raw [A * C, H, W] logits ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engines.core.executor import RawDetections
from engines.plugins.parameters import Parameters, unpack_parameters

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


class Candidates(NamedTuple):
    """Boxes of one image that passed the score threshold, in the total order.

    Attributes:
        logits: float32 [M].
        boxes: float32 [M, 4], xyxy, input pixels, clipped to the input.
        labels: int32 [M].
    """

    logits: Floats
    boxes: Floats
    labels: Integers


def postprocess(
    cls_logits: Sequence[Floats],
    box_deltas: Sequence[Floats],
    parameters: Floats,
    *,
    num_classes: int,
    top_k: int,
    max_detections: int,
) -> RawDetections:
    """Decode, then NMS, for a batch.

    Args:
        cls_logits: a level each: float32 [N, A * C, H, W], the class head's raw output, anchor-major.
        box_deltas: a level each: float32 [N, A * 4, H, W], the box head's raw output.
        parameters: float32 [8 + 4 L A + 2 L], see ``engines.plugins.parameters``.
        num_classes: C.
        top_k: candidates kept on each level.
        max_detections: K, detections kept in each image.
    """
    values = unpack_parameters(parameters, len(cls_logits))
    batch = len(cls_logits[0])
    num = np.zeros(batch, np.int32)
    boxes = np.zeros((batch, max_detections, 4), np.float32)
    scores = np.zeros((batch, max_detections), np.float32)
    labels = np.zeros((batch, max_detections), np.int32)
    for n in range(batch):
        candidates = decode(
            [level[n] for level in cls_logits],
            [level[n] for level in box_deltas],
            values,
            num_classes=num_classes,
            top_k=top_k,
        )
        keep = nms(candidates, values.iou_threshold, max_detections)
        num[n] = count = len(keep)
        boxes[n, :count] = candidates.boxes[keep]
        scores[n, :count] = sigmoid(candidates.logits[keep])
        labels[n, :count] = candidates.labels[keep]
    return RawDetections(num, boxes, scores, labels)


def decode(
    cls_logits: Sequence[Floats],
    box_deltas: Sequence[Floats],
    parameters: Parameters,
    *,
    num_classes: int,
    top_k: int,
) -> Candidates:
    """The candidates of one image: filter by score, best ``top_k`` a level, boxes from deltas, one sorted list.

    Args:
        cls_logits: a level each: float32 [A * C, H, W].
        box_deltas: a level each: float32 [A * 4, H, W].
    """
    logits, boxes, labels = [], [], []
    for level, (level_logits, deltas) in enumerate(zip(cls_logits, box_deltas, strict=True)):
        flat = level_logits.reshape(-1)
        index = np.flatnonzero(flat > parameters.logit_threshold)  # NaN compares false
        index = index[np.argsort(-flat[index], kind="stable")][:top_k]
        height, width = level_logits.shape[1:]
        channel, position = np.divmod(index, height * width)
        anchor, label = np.divmod(channel, num_classes)
        y, x = np.divmod(position, width)
        cell = parameters.cell_anchors[level][anchor]
        shift = np.stack([x, y, x, y], axis=1).astype(np.float32) * np.tile(parameters.strides[level], 2)
        selected = deltas.reshape(-1, 4, height * width)[anchor, :, position]
        logits.append(flat[index])
        boxes.append(_decode_boxes(selected, shift + cell, parameters))
        labels.append(label.astype(np.int32))
    all_logits = np.concatenate(logits)
    order = np.argsort(-all_logits, kind="stable")
    return Candidates(all_logits[order], np.concatenate(boxes)[order], np.concatenate(labels)[order])


def _decode_boxes(deltas: Floats, anchors: Floats, parameters: Parameters) -> Floats:
    """Deltas (dx, dy, dw, dh) float32 [M, 4] on anchors xyxy float32 [M, 4]; Girshick, arXiv 1311.2524, appendix C."""
    size = anchors[:, 2:] - anchors[:, :2]
    center = anchors[:, :2] + np.float32(0.5) * size
    new_center = deltas[:, :2] * size + center
    half = np.float32(0.5) * (np.exp(np.minimum(deltas[:, 2:], parameters.delta_clip)) * size)
    limits = np.array([parameters.input_width, parameters.input_height] * 2, np.float32)
    boxes = np.concatenate([new_center - half, new_center + half], axis=1)
    clipped: Floats = np.clip(boxes, np.float32(0), limits)
    return clipped


def nms(candidates: Candidates, iou_threshold: np.float32, max_detections: int) -> npt.NDArray[np.int64]:
    """Greedy class-aware non-maximum suppression: indices kept, best first, at most ``max_detections``.

    A box goes when a better one of its class overlaps it with an IoU of more than the threshold. Two empty boxes
    have the IoU 0/0, which suppresses nothing.
    """
    boxes, labels = candidates.boxes, candidates.labels
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(boxes), bool)
    keep: list[int] = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        keep.append(i)
        if len(keep) == max_detections:
            break
        rest = np.flatnonzero(alive[i + 1 :] & (labels[i + 1 :] == labels[i])) + i + 1
        overlap = np.minimum(boxes[i, 2:], boxes[rest, 2:]) - np.maximum(boxes[i, :2], boxes[rest, :2])
        inter = np.maximum(overlap[:, 0], np.float32(0)) * np.maximum(overlap[:, 1], np.float32(0))
        with np.errstate(invalid="ignore"):
            alive[rest[inter / (area[i] + area[rest] - inter) > iou_threshold]] = False
    return np.array(keep, np.int64)


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) in float32, without overflow warnings for large negative values."""
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-logits))
