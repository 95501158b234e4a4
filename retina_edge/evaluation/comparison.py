"""Two models on the same images: which boxes both find, how far scores and boxes drift, where they differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.data.box_overlap import iou
from retina_edge.data.coco import CocoDataset, LabeledImage
from retina_edge.detections import Detections
from retina_edge.evaluation.coco_metrics import Evaluation

# Two boxes of one class are the same from here on.
MATCH_IOU = 0.5
# Images worth looking at, at most.
MAX_SHOWN_IMAGES = 10


@dataclass(frozen=True)
class ModelResult:
    """One of the two models.

    Attributes:
        name: of its file.
        evaluation: its metrics.
        found: what it finds in each image of the data set.
    """

    name: str
    evaluation: Evaluation
    found: Sequence[Detections]


@dataclass(frozen=True, eq=False)
class ImageDifference:
    """One image.

    Attributes:
        image: the image.
        first, second: what each model finds in it above the score, best first.
        pairs: int [N, 2]: rows of ``first`` and ``second`` that are the same object.
        overlaps: float32 [N]: of each pair.
    """

    image: LabeledImage
    first: Detections
    second: Detections
    pairs: npt.NDArray[np.int64]
    overlaps: npt.NDArray[np.float32]

    @property
    def drift(self) -> npt.NDArray[np.float32]:
        """Float32 [N]: score of the second less that of the first, of each pair."""
        return np.asarray(self.second.scores[self.pairs[:, 1]] - self.first.scores[self.pairs[:, 0]], np.float32)

    @property
    def lost(self) -> Detections:
        """Found by the first alone."""
        return self.first[np.setdiff1d(np.arange(len(self.first)), self.pairs[:, 0])]

    @property
    def new(self) -> Detections:
        """Found by the second alone."""
        return self.second[np.setdiff1d(np.arange(len(self.second)), self.pairs[:, 1])]

    @property
    def size(self) -> float:
        """How much it changed: scores of what one alone finds, and drift of scores and boxes of what both find."""
        alone = float(self.lost.scores.sum() + self.new.scores.sum())
        return alone + float(np.abs(self.drift).sum() + (1 - self.overlaps).sum())


@dataclass(frozen=True)
class Comparison:
    """Everything that two models differ in.

    Attributes:
        first, second: the models; differences are those of the second against the first.
        score: only boxes that score more are compared; metrics are of all.
        changes: of each image, what changed most first.
    """

    first: ModelResult
    second: ModelResult
    score: float
    changes: tuple[ImageDifference, ...]

    @property
    def most_changed(self) -> tuple[ImageDifference, ...]:
        """The images worth looking at."""
        return tuple(change for change in self.changes[:MAX_SHOWN_IMAGES] if change.size > 0)

    def to_dict(self) -> dict[str, Any]:
        """Counts and means, for JSON."""
        drift = np.concatenate([change.drift for change in self.changes]) if self.changes else np.zeros(0)
        overlaps = np.concatenate([change.overlaps for change in self.changes]) if self.changes else np.zeros(0)
        difference = self.second.evaluation.metrics["AP"] - self.first.evaluation.metrics["AP"]
        return {
            "model": self.first.name,
            "AP difference": None if np.isnan(difference) else difference,
            "score": self.score,
            "matched": len(drift),
            "lost": sum(len(change.lost) for change in self.changes),
            "new": sum(len(change.new) for change in self.changes),
            "mean score drift": float(drift.mean()) if drift.size else None,
            "greatest score drift": float(np.abs(drift).max()) if drift.size else None,
            "mean IoU": float(overlaps.mean()) if overlaps.size else None,
            "most changed": [change.image.path.name for change in self.most_changed],
        }

    def summary(self) -> str:
        """A sentence or two."""
        values = self.to_dict()
        difference = values["AP difference"]
        said = "no AP to compare" if difference is None else f"AP {100 * difference:+.2f} points"
        said += (
            f"; boxes that score more than {self.score:g}: {values['matched']} found by both, {values['lost']} by "
            f"{self.first.name} alone, {values['new']} by {self.second.name} alone"
        )
        if values["matched"]:
            said += (
                f"; of those found by both, scores drift by {values['mean score drift']:+.4f} on average and "
                f"{values['greatest score drift']:.4f} at most, mean IoU {values['mean IoU']:.4f}"
            )
        return said


def compare(first: ModelResult, second: ModelResult, dataset: CocoDataset, score: float) -> Comparison:
    """Matches what two models find in the same images.

    Args:
        first: the model to compare with, for instance in FP32.
        second: the model that is looked at.
        dataset: the images both were run on, in its order.
        score: boxes that do not score more in either are left out.
    """
    changes = [
        _change(image, ours.above(score), theirs.above(score))
        for image, ours, theirs in zip(dataset.images, first.found, second.found, strict=True)
    ]
    return Comparison(first, second, score, tuple(sorted(changes, key=lambda change: -change.size)))


def _change(image: LabeledImage, first: Detections, second: Detections) -> ImageDifference:
    """The first's best box chooses first, among boxes of its class by name."""
    overlap = iou(first.boxes[:, None], second.boxes)
    overlap[np.array(first.names, object)[:, None] != np.array(second.names, object)[None]] = 0
    pairs = []
    for row in range(len(first)):
        if len(second) and overlap[row].max() >= MATCH_IOU:
            column = int(overlap[row].argmax())
            pairs.append((row, column, float(overlap[row, column])))
            overlap[:, column] = 0
    rows = np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)
    return ImageDifference(image, first, second, rows, np.array([pair[2] for pair in pairs], np.float32))
