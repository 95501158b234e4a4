"""The fit of anchors to the boxes of a data set: measure it, and search for anchors that fit better.

The network learns a box from the anchors that overlap the box by an IoU of 0.5 or more (Lin et al., arXiv 1708.02002,
section 4). A box without such an anchor is learned from a single, badly placed anchor. More training does not help.
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
from retina_edge.data.dataset import DetectionDataset
from retina_edge.model.config import FINEST_STRIDE, octave_sizes, pyramid_levels

# The paper's anchors, for a pyramid of five levels.
DEFAULT_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
DEFAULT_RATIOS = (0.5, 1.0, 2.0)
# As in the paper; torchvision calls it fg_iou_thresh.
MATCH_IOU = 0.5
# COCO's limits of small, medium and large boxes: square roots of areas, pixels.
SIZE_CLASSES = {"small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, math.inf)}
# Range of the search for the smallest anchor, pixels, and number of sizes that it tries in each octave.
MIN_ANCHOR, MAX_ANCHOR, STEPS_PER_OCTAVE = 4.0, 128.0, 4
# If there are more boxes, the search uses a random sample of this size.
MAX_FITTED_BOXES = 20_000
# Other anchors are suggested only if they raise the recall by at least this much.
MIN_RECALL_GAIN = 0.005
# An aspect ratio is idle if at most this share of the objects is nearest to it. Idle ones are dropped, unless the
# recall falls by more than ``MAX_RECALL_LOSS``.
IDLE_SHARE, MAX_RECALL_LOSS = 0.02, 0.01
# Number of boxes that are compared with the anchors at once. The limit saves memory.
BOXES_AT_ONCE = 4096


@dataclass(frozen=True)
class SizeFit:
    """The fit of anchors to the boxes of one size class.

    Attributes:
        boxes: number of boxes.
        recall: share of the boxes that an anchor overlaps by an IoU of ``MATCH_IOU`` or more; NaN without boxes.
        mean_iou: mean over the boxes of the IoU with the best anchor; NaN without boxes.
    """

    boxes: int
    recall: float
    mean_iou: float


@dataclass(frozen=True)
class AnchorFit:
    """The fit of one set of anchors.

    Attributes:
        anchor_sizes: smallest anchor of each level, input pixels.
        aspect_ratios: height / width of the anchors.
        sizes: fit by size class of the boxes in the input: ``all``, ``small``, ``medium`` and ``large``.
        under_stride: share of boxes with a side shorter than the stride of the finest level.
    """

    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[float, ...]
    sizes: dict[str, SizeFit]
    under_stride: float

    @property
    def recall(self) -> float:
        """The recall of the anchors over all boxes, 0 to 1."""
        return self.sizes["all"].recall

    @property
    def options(self) -> str:
        """The options of ``retina-edge train`` that select these anchors."""
        sizes, ratios = (" ".join(f"{size:g}" for size in values) for values in (self.anchor_sizes, self.aspect_ratios))
        return f"--anchors {sizes} --aspect-ratios {ratios}"

    def to_dict(self) -> dict[str, object]:
        """Return the fit as values for JSON; NaN becomes None."""
        values = dataclasses.asdict(self)
        for size in values["sizes"].values():
            size |= {name: None if math.isnan(value) else value for name, value in size.items()}
        return values


def input_boxes(dataset: DetectionDataset, input_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return all boxes of a data set in the coordinates of the network's input: float32 [N, 4], xyxy, input pixels.

    Args:
        dataset: data set with the boxes.
        input_size: (height, width) of the network's input, pixels.

    Raises:
        DataError: if the data set has no boxes.
    """
    parts = [Letterbox.fit(image.size, input_size).to_input(image.boxes) for image in dataset.images]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *parts])
    if not len(boxes):
        raise DataError(f"{dataset.annotations}: expected boxes to fit anchors to, found none")
    return boxes


def pyramid(
    input_size: tuple[int, int], anchor_sizes: Sequence[float], aspect_ratios: Sequence[float]
) -> tuple[PyramidLevel, ...]:
    """Return the pyramid levels of a network with three anchor sizes on each level; see ``pyramid_levels``.

    Args:
        input_size: (height, width) of the network's input, pixels.
        anchor_sizes: smallest anchor of each level, input pixels; each level also gets the sizes one and two thirds of
            an octave above.
        aspect_ratios: height / width of the anchors.

    Examples:
        >>> [level.anchor_sizes[0] for level in pyramid((416, 736), (32, 64, 128), (0.5, 1, 2))]
        [32.0, 64.0, 128.0]
    """
    return pyramid_levels(input_size, octave_sizes(anchor_sizes), aspect_ratios)


def best_iou(boxes: npt.NDArray[np.float32], levels: Sequence[PyramidLevel]) -> npt.NDArray[np.float32]:
    """Return the IoU of each box with the anchor that overlaps the box most, float32 [N].

    Args:
        boxes: float32 [N, 4], xyxy, input pixels.
        levels: pyramid levels with their anchors.

    Examples:
        >>> levels = pyramid((64, 64), (32,), (1,))
        >>> best_iou(np.array([[16, 16, 48, 48], [30, 30, 34, 34]], np.float32), levels)
        array([1.      , 0.015625], dtype=float32)
    """
    best = np.zeros(len(boxes), np.float32)
    for start in range(0, len(boxes), BOXES_AT_ONCE):
        part = boxes[start : start + BOXES_AT_ONCE]
        for level in levels:
            # Of all anchors of one shape, the anchor with the nearest center, on both axes, overlaps the box most.
            centers = (part[:, :2] + part[:, 2:]) / 2
            stride = np.array(level.stride[::-1], np.float32)
            last = np.array(level.feature_size[::-1], np.float32) - 1
            nearest = (np.clip(np.round(centers / stride), 0, last) * stride).astype(np.float32)
            anchors = np.tile(nearest, 2)[:, None] + level.cell_anchors()
            overlap = iou(part[:, None], anchors).max(axis=1)
            best_part = best[start : start + BOXES_AT_ONCE]
            np.maximum(best_part, overlap, out=best_part)
    return best


def fit_anchors(
    boxes: npt.NDArray[np.float32],
    input_size: tuple[int, int],
    anchor_sizes: Sequence[float],
    aspect_ratios: Sequence[float],
) -> AnchorFit:
    """Measure how well anchors fit boxes.

    Args:
        boxes: float32 [N, 4], xyxy, input pixels; at least one box.
        input_size: (height, width) of the network's input, pixels.
        anchor_sizes: smallest anchor of each level, input pixels; each level also gets the sizes one and two thirds of
            an octave above.
        aspect_ratios: height / width of the anchors.

    Examples:
        >>> boxes = np.array([[16, 16, 48, 48], [30, 30, 34, 34]], np.float32)
        >>> fit = fit_anchors(boxes, (64, 64), (32, 64, 128), (0.5, 1, 2))
        >>> fit.recall, fit.under_stride
        (0.5, 0.5)
    """
    fit = fit_pyramid(boxes, pyramid(input_size, anchor_sizes, aspect_ratios))
    return dataclasses.replace(fit, anchor_sizes=tuple(anchor_sizes))


def fit_pyramid(boxes: npt.NDArray[np.float32], levels: Sequence[PyramidLevel]) -> AnchorFit:
    """Measure how well the anchors of a pyramid fit boxes.

    Args:
        boxes: float32 [N, 4], xyxy, input pixels; at least one box.
        levels: levels of the pyramid, with any number of sizes on each.

    Examples:
        >>> boxes = np.array([[16, 16, 64, 64]], np.float32)
        >>> fit = fit_pyramid(boxes, pyramid_levels((64, 64), [(48,), (64,), (128,)], (1,)))
        >>> fit.anchor_sizes, fit.recall
        ((48, 64, 128), 1.0)
    """
    overlap = best_iou(boxes, levels)
    sides = boxes[:, 2:] - boxes[:, :2]
    size = np.sqrt(sides.prod(axis=1))
    sizes = {"all": _size_fit(overlap)}
    sizes |= {name: _size_fit(overlap[(low <= size) & (size < high)]) for name, (low, high) in SIZE_CLASSES.items()}
    under = float((sides.min(axis=1) < FINEST_STRIDE).mean())
    first = tuple(level.anchor_sizes[0] for level in levels)
    return AnchorFit(first, tuple(levels[0].aspect_ratios), sizes, under)


def suggest_anchors(
    boxes: npt.NDArray[np.float32],
    input_size: tuple[int, int],
    anchor_sizes: Sequence[float],
    aspect_ratios: Sequence[float],
    *,
    keep_ratios: bool = False,
) -> AnchorFit:
    """Search for an equally large set of anchors that fits better, and return its fit.

    If no other set raises the recall by at least ``MIN_RECALL_GAIN``, return the fit of the given anchors. The search
    varies the size of the smallest anchor. Sizes double from level to level, as the strides of the pyramid do. The
    search tries the given aspect ratios, and ratios measured on the boxes.

    Args:
        boxes, input_size, anchor_sizes, aspect_ratios: as for ``fit_anchors``.
        keep_ratios: search for sizes only, and keep the aspect ratios.

    Examples:
        >>> boxes = np.array([[x, 8, x + 10, 20] for x in range(0, 200, 7)], np.float32)
        >>> suggest_anchors(boxes, (192, 256), (32, 64, 128), (0.5, 1, 2)).options
        '--anchors 10 20 40 --aspect-ratios 0.5 1 2'
    """
    chosen = boxes
    if len(boxes) > MAX_FITTED_BOXES:
        chosen = boxes[np.random.default_rng(0).choice(len(boxes), MAX_FITTED_BOXES, replace=False)]
    octaves = math.log2(MAX_ANCHOR / MIN_ANCHOR)
    candidates = []
    own = tuple(aspect_ratios)
    for ratios in (own,) if keep_ratios else (own, _median_ratios(chosen, len(own))):
        for step in range(round(octaves * STEPS_PER_OCTAVE) + 1):
            smallest = round(MIN_ANCHOR * 2 ** (step / STEPS_PER_OCTAVE))
            sizes = tuple(float(smallest * 2**level) for level in range(len(anchor_sizes)))
            overlap = best_iou(chosen, pyramid(input_size, sizes, ratios))
            # If two sets match equally many boxes, the mean IoU decides.
            candidates.append((round(float((overlap >= MATCH_IOU).mean()), 3), float(overlap.mean()), sizes, ratios))
    *_, sizes, ratios = max(candidates)
    given, best = (
        fit_anchors(boxes, input_size, *anchors) for anchors in ((anchor_sizes, aspect_ratios), (sizes, ratios))
    )
    return best if best.recall >= given.recall + MIN_RECALL_GAIN else given


def without_idle_ratios(fit: AnchorFit, boxes: npt.NDArray[np.float32], input_size: tuple[int, int]) -> AnchorFit:
    """Drop aspect ratios that no object has, because fewer anchors are faster, and return the fit of the others.

    Args:
        fit: fit of the anchors.
        boxes: float32 [N, 4], xyxy, input pixels.
        input_size: (height, width) of the network's input, pixels.

    Examples:
        >>> boxes = np.array([[x, 8, x + 40, 48] for x in range(0, 200, 7)], np.float32)
        >>> fit = fit_anchors(boxes, (192, 256), (16, 32, 64), (0.5, 1, 2))
        >>> without_idle_ratios(fit, boxes, (192, 256)).aspect_ratios
        (1,)
    """
    logs = np.log2((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0]))
    nearest = np.abs(logs[:, None] - np.log2(fit.aspect_ratios)).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(fit.aspect_ratios))
    kept = tuple(
        ratio for ratio, count in zip(fit.aspect_ratios, counts, strict=True) if count > IDLE_SHARE * len(boxes)
    )
    fewer = fit_anchors(boxes, input_size, fit.anchor_sizes, kept)
    # Anchors of an idle ratio can still match small objects between the centers of the other anchors.
    return fewer if fewer.recall >= fit.recall - MAX_RECALL_LOSS else fit


def _median_ratios(boxes: npt.NDArray[np.float32], count: int) -> tuple[float, ...]:
    """Sort the boxes by height / width, split them into ``count`` equal groups, and return the median of each group."""
    sides = boxes[:, 2:] - boxes[:, :2]
    logs = np.log2(sides[:, 1] / sides[:, 0])
    middles = np.quantile(logs, (np.arange(count) + 0.5) / count)
    return tuple(round(float(2**middle), 2) for middle in middles)


def _size_fit(overlap: npt.NDArray[np.float32]) -> SizeFit:
    if not len(overlap):
        return SizeFit(0, math.nan, math.nan)
    return SizeFit(len(overlap), float((overlap >= MATCH_IOU).mean()), float(overlap.mean()))
