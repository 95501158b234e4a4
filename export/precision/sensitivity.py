"""What each convolution costs when it alone is INT8: the order in which layers are put back."""

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
    """Convolutions that share their weights, and what they cost alone.

    Attributes:
        names: of the convolutions.
        cost: noise over signal of the scores, and of the boxes where an object is, the two added.
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
    """Each group alone in INT8, compared with FP32, the most harmful first.

    Args:
        source: FP32, raw heads out.
        groups: from ``weight_groups``.
        quantized: makes the network with these convolutions put back.
        batches: letterboxed images, uint8 [n, height, width, 3].
        contract: of the detector.
        tell: told which group is measured.
    """
    expected = onnx_heads(source, batches)
    found = []
    for number, group in enumerate(groups, start=1):
        tell(f"comparing layers: {number} of {len(groups)}")
        others = tuple(name for other in groups if other is not group for name in other)
        heads = onnx_heads(quantized(others), batches)
        found.append(Sensitivity(group, cost(expected, heads, contract)))
    return sorted(found, key=lambda item: -item.cost)


def cost(expected: Sequence[Arrays], found: Sequence[Arrays], contract: DetectorContract) -> float:
    """Noise over signal of what becomes detections, 0 where nothing differs.

    Scores and not logits: how sure a network is that there is nothing changes no detection. Boxes where any class
    passes the score threshold, for the same reason.
    """
    levels = len(contract.levels)
    noise, signal = np.zeros(2), np.zeros(2)
    for ours, theirs in zip(expected, found, strict=True):
        for level in range(levels):
            scores, others = _sigmoid(ours[level]), _sigmoid(theirs[level])
            objects = _objects(scores, contract)
            deltas, other_deltas = (_at(heads[levels + level], objects) for heads in (ours, theirs))
            noise += [((scores - others) ** 2).sum(), ((deltas - other_deltas) ** 2).sum()]
            signal += [(scores**2).sum(), (deltas**2).sum()]
    # Less than one score at the threshold is no signal.
    return float(np.sum(noise / np.maximum(signal, contract.score_threshold**2 or np.finfo(np.float64).tiny)))


def _objects(scores: npt.NDArray[np.float64], contract: DetectorContract) -> npt.NDArray[np.bool_]:
    """Bool [N, anchors, height, width]: whether any class passes."""
    count, _, height, width = scores.shape
    best = scores.reshape(count, contract.num_anchors, contract.num_classes, height, width).max(axis=2)
    passes: npt.NDArray[np.bool_] = best > contract.score_threshold
    return passes


def _at(deltas: npt.NDArray[np.float32], objects: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Float [objects, 4]."""
    count, anchors, height, width = objects.shape
    by_anchor = deltas.reshape(count, anchors, 4, height, width).transpose(0, 1, 3, 4, 2)
    return by_anchor[objects].astype(np.float64)


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return values
