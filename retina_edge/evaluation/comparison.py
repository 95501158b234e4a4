"""Comparison of two models on the same images: matched boxes, drift of scores, images that changed most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.contract import BIT_DEPTH
from retina_edge.data.box_overlap import iou
from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.detections import Detections
from retina_edge.evaluation.coco_metrics import Evaluation
from retina_edge.evaluation.partners import PARTNER_IOU, Partners, agreement, find_partners

# Maximum number of images in a report.
MAX_SHOWN_IMAGES = 10


@dataclass(frozen=True)
class ModelResult:
    """The results of one of the two models.

    Attributes:
        name: name of the model file.
        evaluation: metrics of the model.
        detections: detections in each image, in the order of the data set.
        bit_depth: bits that image files of 16 bits use.
    """

    name: str
    evaluation: Evaluation
    detections: Sequence[Detections]
    bit_depth: int = BIT_DEPTH


@dataclass(frozen=True, eq=False)
class ImageDifference:
    """The difference between two models in one image.

    Attributes:
        image: image of the data set.
        first, second: detections of each model that score more than the threshold, best first.
        pairs: rows of ``first`` and ``second`` that are the same object, int64 [N, 2].
        overlaps: IoU of the boxes of each pair, float32 [N].
        partners: partners of the boxes of ``first`` among all detections of the second model, whatever they score.
    """

    image: LabeledImage
    first: Detections
    second: Detections
    pairs: npt.NDArray[np.int64]
    overlaps: npt.NDArray[np.float32]
    partners: Partners

    @property
    def drift(self) -> npt.NDArray[np.float32]:
        """The score of the second model minus the score of the first model for each pair, float32 [N]."""
        return np.asarray(self.second.scores[self.pairs[:, 1]] - self.first.scores[self.pairs[:, 0]], np.float32)

    @property
    def lost(self) -> Detections:
        """Detections that only the first model has."""
        return self.first[np.setdiff1d(np.arange(len(self.first)), self.pairs[:, 0])]

    @property
    def new(self) -> Detections:
        """Detections that only the second model has."""
        return self.second[np.setdiff1d(np.arange(len(self.second)), self.pairs[:, 1])]

    @property
    def size(self) -> float:
        """The size of the change: scores of the unmatched detections, plus drift of scores and boxes of the pairs."""
        unmatched = float(self.lost.scores.sum() + self.new.scores.sum())
        return unmatched + float(np.abs(self.drift).sum() + (1 - self.overlaps).sum())


@dataclass(frozen=True)
class Comparison:
    """The differences between two models; the second one is compared with the first one.

    Attributes:
        first, second: results of the models.
        score: only detections that score more are compared; the metrics count all detections.
        changes: difference in each image, the largest first.
    """

    first: ModelResult
    second: ModelResult
    score: float
    changes: tuple[ImageDifference, ...]

    @property
    def most_changed(self) -> tuple[ImageDifference, ...]:
        """The images with the largest differences, at most ``MAX_SHOWN_IMAGES``."""
        return tuple(change for change in self.changes[:MAX_SHOWN_IMAGES] if change.size > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return counts and means for JSON."""
        drift = np.concatenate([change.drift for change in self.changes]) if self.changes else np.zeros(0)
        overlaps = np.concatenate([change.overlaps for change in self.changes]) if self.changes else np.zeros(0)
        share, displacement = agreement([change.partners for change in self.changes])
        difference = self.second.evaluation.metrics["AP"] - self.first.evaluation.metrics["AP"]
        return {
            "model": self.first.name,
            "AP difference": None if np.isnan(difference) else difference,
            "score": self.score,
            "matched": len(drift),
            "lost": sum(len(change.lost) for change in self.changes),
            "new": sum(len(change.new) for change in self.changes),
            "mean score drift": float(drift.mean()) if drift.size else None,
            "mean absolute score drift": float(np.abs(drift).mean()) if drift.size else None,
            "mean IoU": float(overlaps.mean()) if overlaps.size else None,
            "share with a partner": share,
            "mean displacement": displacement,
            "most changed": [change.image.path.name for change in self.most_changed],
        }

    def summary(self) -> str:
        """Return the comparison in words."""
        values = self.to_dict()
        difference = values["AP difference"]
        text = "no AP to compare" if difference is None else f"AP {100 * difference:+.2f} points"
        text += (
            f"; boxes that score more than {self.score:g}: {values['matched']} found by both, {values['lost']} only by "
            f"{self.first.name}, {values['new']} only by {self.second.name}"
        )
        if values["matched"]:
            text += (
                f"; scores of the boxes found by both drift by {values['mean score drift']:+.4f} on average, "
                f"by {values['mean absolute score drift']:.4f} without the sign, with a mean IoU of "
                f"{values['mean IoU']:.4f}"
            )
        if (share := values["share with a partner"]) is not None:
            text += f"; {share:.1%} of the boxes of {self.first.name} have a partner in {self.second.name}"
            if (displacement := values["mean displacement"]) is not None:
                text += f", {displacement:.2f} pixels away on average"
        return text


def compare(first: ModelResult, second: ModelResult, dataset: DetectionDataset, score: float) -> Comparison:
    """Match the detections of two models in the same images.

    Args:
        first: results of the model to compare with, for instance in FP32.
        second: results of the model to examine.
        dataset: data set that both models were run on.
        score: detections that score this or less are ignored.
    """
    changes = [
        _change(image, before.above(score), after, score)
        for image, before, after in zip(dataset.images, first.detections, second.detections, strict=True)
    ]
    return Comparison(first, second, score, tuple(sorted(changes, key=lambda change: -change.size)))


def _change(image: LabeledImage, first: Detections, detections: Detections, score: float) -> ImageDifference:
    """Match boxes greedily: each box of the first model, best first, takes the box of the second that overlaps it most.

    Only boxes whose classes have the same name match.
    """
    # A score just below the threshold makes a box lost, but it still is a partner.
    partners = find_partners(first.boxes, first.names, detections.boxes, detections.names)
    second = detections.above(score)
    overlap = iou(first.boxes[:, None], second.boxes)
    overlap[np.array(first.names, object)[:, None] != np.array(second.names, object)[None]] = 0
    pairs = []
    for row in range(len(first)):
        if len(second) and overlap[row].max() >= PARTNER_IOU:
            column = int(overlap[row].argmax())
            pairs.append((row, column, float(overlap[row, column])))
            overlap[:, column] = 0
    rows = np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)
    overlaps = np.array([pair[2] for pair in pairs], np.float32)
    return ImageDifference(image, first, second, rows, overlaps, partners)
