"""How well a set of anchors fits the boxes of a data set, and which set would fit better.

A box is learnt by the anchors that overlap it by an IoU of 0.5 or more (Lin et al., arXiv 1708.02002, section 4). One
that no anchor overlaps so much has a single, badly placed anchor to be learnt from, whatever the training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.core.contract import PyramidLevel
from engines.core.errors import DataError
from engines.core.letterbox import Letterbox
from retina_edge.data.box_overlap import iou
from retina_edge.data.coco import CocoDataset
from retina_edge.model.config import octave_sizes

# The paper's, of a pyramid of five levels.
DEFAULT_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
DEFAULT_RATIOS = (0.5, 1.0, 2.0)
MATCH_IOU = 0.5  # torchvision's fg_iou_thresh, and the paper's
FINEST_STRIDE = 8
# COCO's borders between small, medium and large: square roots of areas, pixels.
SIZES = {"small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, math.inf)}
# What is searched: the smallest anchor, a quarter of an octave apart, and how many boxes are looked at.
SMALLEST, LARGEST, STEPS = 4.0, 128.0, 4
MAX_FITTED_BOXES = 20_000
# A set is worth changing for so much more recall.
MIN_RECALL_GAIN = 0.005
CHUNK = 4096


@dataclass(frozen=True)
class SizeFit:
    """The fit of boxes of one size.

    Attributes:
        boxes: how many.
        recall: share of them that an anchor overlaps by ``MATCH_IOU`` or more; NaN without boxes.
        mean_iou: mean of each box's best overlap; NaN without boxes.
    """

    boxes: int
    recall: float
    mean_iou: float


@dataclass(frozen=True)
class AnchorFit:
    """The fit of one set of anchors.

    Attributes:
        anchor_sizes: smallest anchor of each level, input pixels.
        aspect_ratios: height / width.
        sizes: of ``all`` boxes, and of those that are small, medium or large in the input.
        under_stride: share of boxes with a side shorter than the finest level's stride.
    """

    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[float, ...]
    sizes: dict[str, SizeFit]
    under_stride: float

    @property
    def recall(self) -> float:
        """Of all boxes."""
        return self.sizes["all"].recall

    @property
    def options(self) -> str:
        """Those of ``retina-edge train`` for these anchors."""
        sizes, ratios = (" ".join(f"{size:g}" for size in values) for values in (self.anchor_sizes, self.aspect_ratios))
        return f"--anchors {sizes} --aspect-ratios {ratios}"

    def to_dict(self) -> dict[str, object]:
        """For JSON; what is not a number becomes None."""
        values = dataclasses.asdict(self)
        for size in values["sizes"].values():
            size |= {name: None if math.isnan(value) else value for name, value in size.items()}
        return values


def input_boxes(dataset: CocoDataset, input_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """All boxes of a data set as the network meets them: float32 [N, 4], xyxy, input pixels.

    Raises:
        DataError: there are none.
    """
    found = [Letterbox.fit(image.size, input_size).to_input(image.boxes) for image in dataset.images]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *found])
    if not len(boxes):
        raise DataError(f"{dataset.annotations}: expected boxes to fit anchors to, found none")
    return boxes


def pyramid(
    input_size: tuple[int, int], anchor_sizes: Sequence[float], aspect_ratios: Sequence[float]
) -> tuple[PyramidLevel, ...]:
    """The levels of a network that has not been made: its convolutions of stride 2 round up."""
    levels = []
    for index, sizes in enumerate(octave_sizes(anchor_sizes)):
        height, width = (math.ceil(side / (FINEST_STRIDE * 2**index)) for side in input_size)
        stride = (input_size[0] // height, input_size[1] // width)
        levels.append(PyramidLevel((height, width), stride, sizes, tuple(aspect_ratios)))
    return tuple(levels)


def best_iou(boxes: npt.NDArray[np.float32], levels: Sequence[PyramidLevel]) -> npt.NDArray[np.float32]:
    """The overlap of each box, float32 [N, 4] xyxy in input pixels, with the anchor that overlaps it most: [N]."""
    best = np.zeros(len(boxes), np.float32)
    for start in range(0, len(boxes), CHUNK):
        part = boxes[start : start + CHUNK]
        for level in levels:
            # Anchors of a shape overlap more the nearer their center is, along each axis by itself.
            centers = (part[:, :2] + part[:, 2:]) / 2
            stride = np.array(level.stride[::-1], np.float32)
            last = np.array(level.feature_size[::-1], np.float32) - 1
            places = (np.clip(np.round(centers / stride), 0, last) * stride).astype(np.float32)
            anchors = np.tile(places, 2)[:, None] + level.cell_anchors()
            overlap = iou(part[:, None], anchors).max(axis=1)
            np.maximum(best[start : start + CHUNK], overlap, out=best[start : start + CHUNK])
    return best


def fit_anchors(
    boxes: npt.NDArray[np.float32],
    input_size: tuple[int, int],
    anchor_sizes: Sequence[float],
    aspect_ratios: Sequence[float],
) -> AnchorFit:
    """How well anchors fit boxes.

    Args:
        boxes: float32 [N, 4], xyxy, input pixels, at least one.
        input_size: (height, width) of the network's input, pixels.
        anchor_sizes: smallest anchor of each level, input pixels; two more lie an octave's thirds above it.
        aspect_ratios: height / width.
    """
    overlap = best_iou(boxes, pyramid(input_size, anchor_sizes, aspect_ratios))
    sides = boxes[:, 2:] - boxes[:, :2]
    size = np.sqrt(sides.prod(axis=1))
    sizes = {"all": _size_fit(overlap)}
    sizes |= {name: _size_fit(overlap[(low <= size) & (size < high)]) for name, (low, high) in SIZES.items()}
    under = float((sides.min(axis=1) < FINEST_STRIDE).mean())
    return AnchorFit(tuple(anchor_sizes), tuple(aspect_ratios), sizes, under)


def suggest_anchors(
    boxes: npt.NDArray[np.float32],
    input_size: tuple[int, int],
    anchor_sizes: Sequence[float],
    aspect_ratios: Sequence[float],
) -> AnchorFit:
    """A set that fits better than the one given, of as many anchors; that one itself where none is worth the change.

    Sizes double from level to level, as the pyramid's strides do; searched are the smallest, and the ratios among those
    given and the boxes' own.

    Args: as ``fit_anchors``.
    """
    chosen = boxes
    if len(boxes) > MAX_FITTED_BOXES:
        chosen = boxes[np.random.default_rng(0).choice(len(boxes), MAX_FITTED_BOXES, replace=False)]
    octaves = math.log2(LARGEST / SMALLEST)
    candidates = []
    for ratios in (tuple(aspect_ratios), _own_ratios(chosen, len(aspect_ratios))):
        for step in range(round(octaves * STEPS) + 1):
            smallest = round(SMALLEST * 2 ** (step / STEPS))
            sizes = tuple(float(smallest * 2**level) for level in range(len(anchor_sizes)))
            overlap = best_iou(chosen, pyramid(input_size, sizes, ratios))
            # Where two match as many boxes, the one that lies closer to them.
            candidates.append((round(float((overlap >= MATCH_IOU).mean()), 3), float(overlap.mean()), sizes, ratios))
    *_, sizes, ratios = max(candidates)
    given, found = (
        fit_anchors(boxes, input_size, *anchors) for anchors in ((anchor_sizes, aspect_ratios), (sizes, ratios))
    )
    return found if found.recall >= given.recall + MIN_RECALL_GAIN else given


def _own_ratios(boxes: npt.NDArray[np.float32], count: int) -> tuple[float, ...]:
    """Medians of as many equal groups of the boxes, by height / width."""
    sides = boxes[:, 2:] - boxes[:, :2]
    logs = np.log2(sides[:, 1] / sides[:, 0])
    middles = np.quantile(logs, (np.arange(count) + 0.5) / count)
    return tuple(round(float(2**middle), 2) for middle in middles)


def _size_fit(overlap: npt.NDArray[np.float32]) -> SizeFit:
    if not len(overlap):
        return SizeFit(0, math.nan, math.nan)
    return SizeFit(len(overlap), float((overlap >= MATCH_IOU).mean()), float(overlap.mean()))
