"""The confusion of a detector: objects that it finds, misses, locates badly, or takes for another class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.data.box_overlap import iou, share_inside
from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.detections import Detections

# Smallest IoU of a correct box, as in AP50, and of a box that is near its object but badly located.
CORRECT_IOU, NEARBY_IOU = 0.5, 0.1
# Outcomes for an object that are not a class name.
BOX_OFF, MISSED = "box off", "missed"


@dataclass(frozen=True)
class Confusion:
    """The outcome for every object of a data set, and the boxes without an object.

    Attributes:
        class_names: class names of the data set.
        outcomes: number of objects by (class, outcome); an outcome is a class name, ``box off`` or ``missed``.
        false_alarms: number of boxes by class that match no object, or only objects with a better box. Boxes of which
            at least half lies in a COCO crowd of their class are not counted.

    Examples:
        >>> result = Confusion(("tree", "bush"), {("tree", "tree"): 5, ("tree", "bush"): 1}, {"bush": 2})
        >>> result.rows()
        [('tree', 6, 5, 0, 0, 0), ('bush', 0, 0, 0, 0, 2)]
        >>> result.mistaken()
        [('tree', 'bush', 1)]
    """

    class_names: tuple[str, ...]
    outcomes: dict[tuple[str, str], int]
    false_alarms: dict[str, int]

    def rows(self) -> list[tuple[str, int, int, int, int, int]]:
        """Return a row for each class: name, objects, found, box off, missed, false alarms."""
        rows = []
        for name in self.class_names:
            objects = sum(count for (true, _), count in self.outcomes.items() if true == name)
            correct, off, missed = (self.outcomes.get((name, outcome), 0) for outcome in (name, BOX_OFF, MISSED))
            rows.append((name, objects, correct, off, missed, self.false_alarms.get(name, 0)))
        return rows

    def mistaken(self) -> list[tuple[str, str, int]]:
        """Return (true class, class it was taken for, count) for each confusion of two classes, most frequent first."""
        mistakes = [
            (true, outcome, count)
            for (true, outcome), count in self.outcomes.items()
            if outcome not in (true, BOX_OFF, MISSED)
        ]
        return sorted(mistakes, key=lambda item: -item[2])

    def to_dict(self) -> dict[str, Any]:
        """Return the rows and the confusions of classes for JSON."""
        names = ("class", "objects", "found", BOX_OFF, MISSED, "false alarms")
        return {
            "classes": [dict(zip(names, row, strict=True)) for row in self.rows()],
            "mistaken": [{"class": true, "taken for": other, "count": count} for true, other, count in self.mistaken()],
        }


def confusion(detections: Sequence[Detections], dataset: DetectionDataset, score: float) -> Confusion:
    """Match the boxes that score more than ``score`` with the objects of each image.

    Boxes are matched greedily, best first. A box takes an object of its class with an IoU of at least ``CORRECT_IOU``.
    If there is no such object, the box takes an object of another class with such an IoU, which then counts as
    confused. An object near a remaining box of its class counts as badly located (``box off``).

    Args:
        detections: detections of each image, in the order of the data set.
        dataset: data set with the objects.
        score: boxes that score this or less are ignored.
    """
    outcomes: Counter[tuple[str, str]] = Counter()
    alarms: Counter[str] = Counter()
    for image, in_image in zip(dataset.images, detections, strict=True):
        result = match_image(in_image, image, dataset, score)
        outcomes.update(
            (dataset.class_names[label], outcome)
            for label, outcome in zip(image.labels.tolist(), result.objects, strict=True)
        )
        alarms.update(result.detections[result.false_alarms].names)
    return Confusion(dataset.class_names, dict(outcomes), dict(alarms))


@dataclass(frozen=True, eq=False)
class ImageOutcome:
    """The outcomes in one image.

    Attributes:
        detections: detections that score more than the threshold, best first.
        objects: outcome of each object, as in ``Confusion``.
        taken: index of the object that each detection takes, int64 [N]; -1 for none.
        false_alarms: True for the detections that are false alarms, bool [N].
    """

    detections: Detections
    objects: tuple[str, ...]
    taken: npt.NDArray[np.int64]
    false_alarms: npt.NDArray[np.bool_]

    def found(self, image: LabeledImage, dataset: DetectionDataset) -> npt.NDArray[np.bool_]:
        """Return True for each detection that has found an object of its class, bool [N]."""
        names = [dataset.class_names[label] for label in image.labels.tolist()]
        right = [outcome == name for outcome, name in zip(self.objects, names, strict=True)]
        return np.array([column >= 0 and right[column] for column in self.taken.tolist()], np.bool_)


def match_image(detections: Detections, image: LabeledImage, dataset: DetectionDataset, score: float) -> ImageOutcome:
    """Match the boxes that score more than ``score`` with the objects of one image; see ``confusion``.

    Args:
        detections: detections in the image.
        image: image of the data set.
        dataset: data set, for its class names.
        score: boxes that score this or less are ignored.

    Examples:
        >>> from retina_edge.data.load import load_dataset
        >>> data = load_dataset("tests/data/treecrowns/val.json", None)
        >>> set(match_image(Detections.empty(["tree"], [1]), data.images[0], data, 0.4).objects)
        {'missed'}
    """
    confident = detections.above(score)
    true = [dataset.class_names[label] for label in image.labels.tolist()]
    overlap = iou(confident.boxes[:, None], image.boxes)
    outcomes: dict[int, str] = {}
    taken = np.full(len(confident), -1, np.int64)
    alarms = np.zeros(len(confident), np.bool_)
    for row, name in enumerate(confident.names):
        free = [
            column
            for column in np.argsort(-overlap[row])
            if overlap[row, column] >= CORRECT_IOU and column not in outcomes
        ]
        same = [column for column in free if true[column] == name]
        if chosen := (same or free)[:1]:
            taken[row] = chosen[0]
            outcomes[int(chosen[0])] = name
    for row, name in enumerate(confident.names):
        if taken[row] >= 0:
            continue
        near = [
            column
            for column in np.argsort(-overlap[row])
            if NEARBY_IOU <= overlap[row, column] < CORRECT_IOU and column not in outcomes and true[column] == name
        ]
        if near:
            taken[row] = near[0]
            outcomes[int(near[0])] = BOX_OFF
        elif name in dataset.class_names and not _in_crowd(confident.boxes[row], name, image, dataset):
            alarms[row] = True
    objects = tuple(outcomes.get(column, MISSED) for column in range(len(true)))
    return ImageOutcome(confident, objects, taken, alarms)


def _in_crowd(box: npt.NDArray[np.float32], name: str, image: LabeledImage, dataset: DetectionDataset) -> bool:
    """Return True if at least half of a box lies in a crowd of its class, the criterion of COCO's evaluation."""
    crowds = image.crowds[image.crowd_labels == dataset.class_names.index(name)]
    return bool((share_inside(box, crowds) >= CORRECT_IOU).any())
