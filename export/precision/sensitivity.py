"""Measure the error that each convolution causes if it alone is INT8.

The convolutions with the largest error are the first to fall back to FP16 (FP32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from engines.core.contract import DetectorContract
from export.verify import Arrays, Images, onnx_heads

Names = tuple[str, ...]


@dataclass(frozen=True)
class Sensitivity:
    """A group of convolutions that share their weights, and the error that it causes if it alone is INT8.

    Attributes:
        names: names of the convolutions.
        cost: ratio of noise to signal in the raw heads, from the function ``cost``.
    """

    names: Names
    cost: float


def sensitivities(
    source: onnx.ModelProto,
    groups: Sequence[Names],
    quantized: Callable[[Names], onnx.ModelProto],
    batches: Sequence[Images],
    contract: DetectorContract,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Sensitivity]:
    """Measure the error that each group of convolutions causes if it alone is INT8.

    Args:
        source: FP32 network that returns raw heads.
        groups: groups of convolutions from ``weight_groups``.
        quantized: function that returns the INT8 network in which the given convolutions fall back.
        batches: batches of letterboxed images, uint8 [n, height, width, 3], BGR.
        contract: contract of the detector.
        tell: callback for progress, called with a description of each step.

    Returns:
        The sensitivities of all groups, the most harmful group first.
    """
    expected = onnx_heads(source, batches)
    measured = []
    for number, group in enumerate(groups, start=1):
        tell(f"comparing layers: {number} of {len(groups)}")
        others = tuple(name for other in groups if other is not group for name in other)
        heads = onnx_heads(quantized(others), batches)
        measured.append(Sensitivity(group, cost(expected, heads, contract)))
    return sorted(measured, key=lambda item: -item.cost)


def cost(expected: Sequence[Arrays], actual: Sequence[Arrays], contract: DetectorContract) -> float:
    """Return the ratio of noise to signal in the raw heads that become detections; 0 if nothing differs.

    The ratio of the scores and the ratio of the box deltas are added. Scores are compared instead of logits, because a
    change of very low logits changes no detection. For the same reason, box deltas are compared only at anchors where
    a class passes the score threshold.

    Args:
        expected: raw heads of each batch by the FP32 network.
        actual: raw heads of each batch by the other network.
        contract: contract of the detector.

    Examples:
        >>> from engines.core.contract import PyramidLevel
        >>> levels = (PyramidLevel((1, 1), (32, 32), (32.0,), (1.0,)),)
        >>> contract = DetectorContract("demo", (32, 32), ("tree",), (1,), levels)
        >>> logits, deltas = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 4, 1, 1), np.float32)
        >>> round(cost([[logits, deltas]], [[logits, 1.1 * deltas]], contract), 4)
        0.01
    """
    levels = len(contract.levels)
    noise, signal = np.zeros(2), np.zeros(2)
    for expected_heads, actual_heads in zip(expected, actual, strict=True):
        for level in range(levels):
            scores, actual_scores = _sigmoid(expected_heads[level]), _sigmoid(actual_heads[level])
            objects = _objects(scores, contract)
            deltas, actual_deltas = (
                _deltas_at(heads[levels + level], objects) for heads in (expected_heads, actual_heads)
            )
            noise += [((scores - actual_scores) ** 2).sum(), ((deltas - actual_deltas) ** 2).sum()]
            signal += [(scores**2).sum(), (deltas**2).sum()]
    # The signal is set to at least that of a single score at the threshold, to avoid a division by almost zero.
    return float(np.sum(noise / np.maximum(signal, contract.score_threshold**2 or np.finfo(np.float64).tiny)))


def _objects(scores: npt.NDArray[np.float64], contract: DetectorContract) -> npt.NDArray[np.bool_]:
    """Return a mask, bool [N, anchors, height, width]: True if a class passes the score threshold."""
    count, _, height, width = scores.shape
    best = scores.reshape(count, contract.num_anchors, contract.num_classes, height, width).max(axis=2)
    passes: npt.NDArray[np.bool_] = best > contract.score_threshold
    return passes


def _deltas_at(deltas: npt.NDArray[np.float32], objects: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the box deltas at the True positions of a mask: float64 [objects, 4]."""
    count, anchors, height, width = objects.shape
    by_anchor = deltas.reshape(count, anchors, 4, height, width).transpose(0, 1, 3, 4, 2)
    return by_anchor[objects].astype(np.float64)


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return values
