"""Decode and NMS in NumPy: the specification that the ONNX functions and the CUDA kernels are tested against.

The semantics are those of torchvision's RetinaNet (``postprocess_detections``; Lin et al., "Focal Loss for Dense
Object Detection", arXiv 1708.02002, section 4, "Inference"). A total order of the candidates makes the result
deterministic: logit descending, then level ascending, then index in the level's raw [A * C, H, W] logits ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract
from engines.core.executor import RawDetections
from engines.plugins.parameters import Parameters, pack_parameters, unpack_parameters

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


class Candidates(NamedTuple):
    """The candidates of one image, in the total order.

    Attributes:
        logits: class logits, float32 [M].
        boxes: boxes, float32 [M, 4], xyxy, input pixels, clipped to the input.
        labels: labels, int32 [M].
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
    """Run decode and NMS for a batch.

    Args:
        cls_logits: class logits of each level, float32 [N, A * C, H, W], channels ordered by anchor, then by class.
        box_deltas: box deltas of each level, float32 [N, A * 4, H, W], channels ordered by anchor, then dx, dy, dw, dh.
        parameters: parameter tensor, float32 [8 + 4 L A + 2 L]; see ``engines.plugins.parameters``.
        num_classes: number of classes C.
        top_k: largest number of candidates kept on each level.
        max_detections: largest number of detections K kept in each image.

    Examples:
        >>> anchor, stride = [-8, -8, 8, 8], [32, 32]
        >>> parameters = np.array([0, 0.5, 4, 64, 64, 0, 0, 0, *anchor, *stride], np.float32)
        >>> logits = np.array([[[[-9, 2], [-9, -9]]]], np.float32)
        >>> deltas = np.zeros((1, 4, 2, 2), np.float32)
        >>> result = postprocess([logits], [deltas], parameters, num_classes=1, top_k=10, max_detections=10)
        >>> result.num_detections, result.boxes[0, 0]
        (array([1], dtype=int32), array([24.,  0., 40.,  8.], dtype=float32))
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
        keep = nms(candidates, values.iou_threshold, max_detections, agnostic=values.agnostic)
        num[n] = count = len(keep)
        boxes[n, :count] = candidates.boxes[keep]
        scores[n, :count] = sigmoid(candidates.logits[keep])
        labels[n, :count] = candidates.labels[keep]
    return RawDetections(num, boxes, scores, labels)


def detections_of(
    heads: Sequence[npt.NDArray[np.floating[Any]]], contract: DetectorContract, parameters: Floats | None = None
) -> RawDetections:
    """Run decode and NMS of a model for a batch.

    Args:
        heads: raw heads, class logits of each level and then box deltas of each level, float16 or float32.
        contract: contract of the model.
        parameters: parameter tensor; None for that of the contract.
    """
    levels, wide = len(contract.levels), [head.astype(np.float32, copy=False) for head in heads]
    return postprocess(
        wide[:levels],
        wide[levels:],
        pack_parameters(contract) if parameters is None else parameters,
        num_classes=contract.num_classes,
        top_k=contract.top_k,
        max_detections=contract.max_detections,
    )


def decode(
    cls_logits: Sequence[Floats],
    box_deltas: Sequence[Floats],
    parameters: Parameters,
    *,
    num_classes: int,
    top_k: int,
) -> Candidates:
    """Return the candidates of one image.

    On each level, the best ``top_k`` logits above the threshold are kept, and their boxes are computed from the deltas.
    Then the candidates of all levels are sorted into one list.

    Args:
        cls_logits: class logits of each level, float32 [A * C, H, W].
        box_deltas: box deltas of each level, float32 [A * 4, H, W].
        parameters: parts of the parameter tensor, from ``unpack_parameters``.
        num_classes: number of classes C.
        top_k: largest number of candidates kept on each level.

    Examples:
        >>> values = np.array([0, 0.5, 4, 64, 64, 0, 0, 0, -8, -8, 8, 8, 32, 32], np.float32)
        >>> logits, deltas = np.array([[[-9, 2], [3, -9]]], np.float32), np.zeros((4, 2, 2), np.float32)
        >>> decode([logits], [deltas], unpack_parameters(values, 1), num_classes=1, top_k=10).boxes
        array([[ 0., 24.,  8., 40.],
               [24.,  0., 40.,  8.]], dtype=float32)
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
    """Apply deltas (dx, dy, dw, dh), float32 [M, 4], to anchors, float32 [M, 4] xyxy, and clip the boxes to the input.

    Source: Girshick, arXiv 1311.2524, appendix C.
    """
    size = anchors[:, 2:] - anchors[:, :2]
    center = anchors[:, :2] + np.float32(0.5) * size
    new_center = deltas[:, :2] * size + center
    half = np.float32(0.5) * (np.exp(np.minimum(deltas[:, 2:], parameters.delta_clip)) * size)
    limits = np.array([parameters.input_width, parameters.input_height] * 2, np.float32)
    boxes = np.concatenate([new_center - half, new_center + half], axis=1)
    clipped: Floats = np.clip(boxes, np.float32(0), limits)
    return clipped


def nms(
    candidates: Candidates, iou_threshold: np.float32, max_detections: int, *, agnostic: bool = False
) -> npt.NDArray[np.int64]:
    """Run greedy NMS and return the indices of the kept candidates, best first.

    A box is suppressed if its IoU with a better, kept box is above the threshold. In class-aware NMS, the better box
    must have the same label; in class-agnostic NMS, it may have any label. Two empty boxes have the IoU 0/0, which
    suppresses nothing.

    Args:
        candidates: candidates of one image, best first.
        iou_threshold: IoU above which the worse box is suppressed.
        max_detections: largest number of indices returned.
        agnostic: True for class-agnostic NMS.

    Examples:
        >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10]], np.float32)
        >>> candidates = Candidates(np.array([3, 2, 1], np.float32), boxes, np.array([0, 0, 1], np.int32))
        >>> nms(candidates, np.float32(0.5), max_detections=10)
        array([0, 2])
        >>> nms(candidates, np.float32(0.5), max_detections=10, agnostic=True)
        array([0])
    """
    boxes = candidates.boxes
    labels = np.zeros_like(candidates.labels) if agnostic else candidates.labels
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
    """Return 1 / (1 + exp(-x)) in float32, without overflow warnings for large negative values.

    Examples:
        >>> sigmoid(np.array([-200, 0, 200], np.float32))
        array([0. , 0.5, 1. ], dtype=float32)
    """
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-logits))
