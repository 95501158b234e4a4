"""The one FP32 constant tensor that Decode and NMS read, whoever implements them.

Layout, for L levels with A anchors a position:

    0  logit threshold      log(t / (1 - t)) of the score threshold t, so that no sigmoid is needed to filter
    1  IoU threshold
    2  delta clip           log(1000 / 16): bound of the log size deltas (Detectron; torchvision's BoxCoder)
    3  input width, pixels
    4  input height, pixels
    5  reserved, 3 zeros
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
    """log(score / (1 - score)) as float32; minus infinity at 0."""
    return np.float32(math.log(score / (1 - score)) if score > 0 else -math.inf)


def pack_parameters(contract: DetectorContract) -> npt.NDArray[np.float32]:
    """The parameter tensor of a contract: float32 [8 + 4 L A + 2 L]."""
    height, width = contract.input_size
    header = [logit(contract.score_threshold), contract.iou_threshold, DELTA_CLIP, width, height, 0, 0, 0]
    anchors = np.stack([level.cell_anchors() for level in contract.levels])
    strides = np.array([level.stride[::-1] for level in contract.levels])
    return np.concatenate([header, anchors.reshape(-1), strides.reshape(-1)]).astype(np.float32)


def set_thresholds(
    parameters: npt.NDArray[np.float32], *, score_threshold: float | None = None, iou_threshold: float | None = None
) -> None:
    """Changes a parameter tensor in its place; None leaves a threshold as it is.

    Raises:
        ValueError: not 0 <= threshold < 1; nothing is changed.
    """
    for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name}: expected 0 <= {name} < 1, got {value:g}")
    if score_threshold is not None:
        parameters[0] = logit(score_threshold)
    if iou_threshold is not None:
        parameters[1] = iou_threshold


@dataclass(frozen=True)
class Parameters:
    """The parameter tensor with its parts named; built by ``unpack_parameters``.

    Attributes:
        cell_anchors: float32 [L, A, 4], xyxy around the origin, input pixels.
        strides: float32 [L, 2], x then y, input pixels.
    """

    logit_threshold: np.float32
    iou_threshold: np.float32
    delta_clip: np.float32
    input_width: np.float32
    input_height: np.float32
    cell_anchors: npt.NDArray[np.float32]
    strides: npt.NDArray[np.float32]


def unpack_parameters(values: npt.NDArray[np.float32], num_levels: int) -> Parameters:
    """Names the parts of a parameter tensor float32 [8 + 4 L A + 2 L].

    Raises:
        ValueError: the length fits no whole number of anchors.
    """
    num_anchors, rest = divmod(len(values) - HEADER - 2 * num_levels, 4 * num_levels)
    if rest or num_anchors < 1:
        raise ValueError(f"expected 8 + 4 L A + 2 L values for L = {num_levels} levels, got {len(values)}")
    end = HEADER + 4 * num_levels * num_anchors
    return Parameters(
        logit_threshold=values[0],
        iou_threshold=values[1],
        delta_clip=values[2],
        input_width=values[3],
        input_height=values[4],
        cell_anchors=values[HEADER:end].reshape(num_levels, num_anchors, 4),
        strides=values[end:].reshape(num_levels, 2),
    )
