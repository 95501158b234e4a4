"""The parameter tensor: one float32 constant that every implementation of decode and NMS reads.

Layout, for L levels with A anchors at each position:

    0  logit threshold      log(t / (1 - t)) of the score threshold t, so that Filter needs no sigmoid
    1  IoU threshold
    2  delta clip           log(1000 / 16), the largest log size delta (Detectron; torchvision's BoxCoder)
    3  input width, pixels
    4  input height, pixels
    5  agnostic             1 if a box suppresses boxes of all classes, 0 if only boxes of its own class
    6  reserved, 2 zeros
    8  cell anchors         [L, A, 4], xyxy around the origin
    8 + 4 L A  strides      [L, 2], x then y
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract

HEADER = 8
DELTA_CLIP = math.log(1000.0 / 16)


def logit(score: float) -> np.float32:
    """Return log(score / (1 - score)) as float32; minus infinity for 0.

    Examples:
        >>> float(logit(0.5))
        0.0
    """
    return np.float32(math.log(score / (1 - score)) if score > 0 else -math.inf)


def pack_parameters(contract: DetectorContract) -> npt.NDArray[np.float32]:
    """Return the parameter tensor of a contract: float32 [8 + 4 L A + 2 L].

    Examples:
        >>> from engines.core.contract import PyramidLevel
        >>> level = PyramidLevel(feature_size=(8, 8), stride=(8, 8), anchor_sizes=(32.0,), aspect_ratios=(1.0,))
        >>> contract = DetectorContract("example", (64, 64), ("tree",), (1,), (level,))
        >>> pack_parameters(contract)[HEADER:]
        array([-16., -16.,  16.,  16.,   8.,   8.], dtype=float32)
    """
    height, width = contract.input_size
    thresholds = [logit(contract.score_threshold), contract.iou_threshold]
    header = [*thresholds, DELTA_CLIP, width, height, contract.agnostic, 0, 0]
    anchors = np.stack([level.cell_anchors() for level in contract.levels])
    strides = np.array([level.stride[::-1] for level in contract.levels])
    return np.concatenate([header, anchors.reshape(-1), strides.reshape(-1)]).astype(np.float32)


def set_thresholds(
    parameters: npt.NDArray[np.float32], *, score_threshold: float | None = None, iou_threshold: float | None = None
) -> None:
    """Change the thresholds in a parameter tensor, in place; None leaves a threshold as it is.

    Args:
        parameters: parameter tensor, float32 [8 + 4 L A + 2 L].
        score_threshold: score that a candidate must exceed.
        iou_threshold: IoU above which NMS suppresses a box.

    Raises:
        ValueError: if not 0 <= score_threshold < 1 or not 0 <= iou_threshold <= 1. In this case, neither threshold is
            changed.

    Examples:
        >>> parameters = np.zeros(HEADER, np.float32)
        >>> set_thresholds(parameters, score_threshold=0.5, iou_threshold=0.25)
        >>> parameters[:2]
        array([0.  , 0.25], dtype=float32)
    """
    if score_threshold is not None and not 0 <= score_threshold < 1:
        raise ValueError(f"score_threshold: expected 0 <= score_threshold < 1, got {score_threshold:g}")
    if iou_threshold is not None and not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: expected 0 <= iou_threshold <= 1, got {iou_threshold:g}")
    if score_threshold is not None:
        parameters[0] = logit(score_threshold)
    if iou_threshold is not None:
        parameters[1] = iou_threshold


@dataclass(frozen=True)
class Parameters:
    """The named parts of a parameter tensor, from ``unpack_parameters``.

    Attributes:
        logit_threshold: logit of the score threshold.
        iou_threshold: IoU above which NMS suppresses a box.
        delta_clip: largest log size delta.
        input_width: width of the network's input, pixels.
        input_height: height of the network's input, pixels.
        agnostic: True if a box suppresses boxes of all classes, not only of its own.
        cell_anchors: anchors around the origin, float32 [L, A, 4], xyxy, input pixels.
        strides: distances between anchors, float32 [L, 2], x then y, input pixels.
    """

    logit_threshold: np.float32
    iou_threshold: np.float32
    delta_clip: np.float32
    input_width: np.float32
    input_height: np.float32
    agnostic: bool
    cell_anchors: npt.NDArray[np.float32]
    strides: npt.NDArray[np.float32]


def unpack_parameters(values: npt.NDArray[np.float32], num_levels: int) -> Parameters:
    """Split a parameter tensor into its named parts.

    Args:
        values: parameter tensor, float32 [8 + 4 L A + 2 L].
        num_levels: number of levels L.

    Raises:
        ValueError: if no whole number A of anchors gives the tensor's length.

    Examples:
        >>> values = np.arange(14, dtype=np.float32)
        >>> unpack_parameters(values, num_levels=1).cell_anchors
        array([[[ 8.,  9., 10., 11.]]], dtype=float32)
    """
    num_anchors, rest = divmod(len(values) - HEADER - 2 * num_levels, 4 * num_levels)
    if rest or num_anchors < 1:
        raise ValueError(f"parameters: expected 8 + 4 L A + 2 L values for L = {num_levels} levels, got {len(values)}")
    end = HEADER + 4 * num_levels * num_anchors
    return Parameters(
        logit_threshold=values[0],
        iou_threshold=values[1],
        delta_clip=values[2],
        input_width=values[3],
        input_height=values[4],
        agnostic=bool(values[5]),
        cell_anchors=values[HEADER:end].reshape(num_levels, num_anchors, 4),
        strides=values[end:].reshape(num_levels, 2),
    )
