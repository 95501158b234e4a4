"""Which objects a detector finds, misses, boxes badly, or takes for another class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.data.box_overlap import iou, share_inside
from retina_edge.data.coco import CocoDataset, LabeledImage
from retina_edge.detections import Detections

# From here on a box is on its object, as AP50 has it; from NEARBY_IOU on it is near, and off.
CORRECT_IOU, NEARBY_IOU = 0.5, 0.1
# In the place of a class.
BOX_OFF, MISSED = "box off", "missed"


@dataclass(frozen=True)
class Confusion:
    """What became of every object, and which boxes have none.

    Attributes:
        class_names: of the data set.
        calls: how many objects of a class were called what: a class name, ``box off`` or ``missed``.
        false_alarms: boxes of a class on no object, or on one that has a better box already; not those that lie by half
            in a region that COCO marks as a crowd of their class.
    """

    class_names: tuple[str, ...]
    calls: dict[tuple[str, str], int]
    false_alarms: dict[str, int]

    def rows(self) -> list[tuple[str, int, int, int, int, int]]:
        """Of each class: name, objects, found, box off, missed, false alarms."""
        found = []
        for name in self.class_names:
            objects = sum(count for (true, _), count in self.calls.items() if true == name)
            right, off, missed = (self.calls.get((name, called), 0) for called in (name, BOX_OFF, MISSED))
            found.append((name, objects, right, off, missed, self.false_alarms.get(name, 0)))
        return found

    def mistaken(self) -> list[tuple[str, str, int]]:
        """True class, the class it was taken for, and how often; most often first."""
        found = [
            (true, called, count)
            for (true, called), count in self.calls.items()
            if called not in (true, BOX_OFF, MISSED)
        ]
        return sorted(found, key=lambda item: -item[2])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("class", "objects", "found", BOX_OFF, MISSED, "false alarms")
        return {
            "classes": [dict(zip(names, row, strict=True)) for row in self.rows()],
            "mistaken": [
                {"class": true, "taken for": called, "count": count} for true, called, count in self.mistaken()
            ],
        }


def confusion(found: Sequence[Detections], dataset: CocoDataset, score: float) -> Confusion:
    """Compares boxes that score more than ``score`` with the objects of each image.

    The best box chooses first: an object of its class that it is on, else one of another class, which it then calls by
    its own. What is left over, but near an object of its class, is a box that is off.

    Args:
        found: of each image of the data set, in its order.
        dataset: the objects.
        score: boxes that do not score more are not looked at.
    """
    calls: Counter[tuple[str, str]] = Counter()
    alarms: Counter[str] = Counter()
    for image, detections in zip(dataset.images, found, strict=True):
        sure = detections.above(score)
        true = [dataset.class_names[label] for label in image.labels.tolist()]
        overlap = iou(sure.boxes[:, None], image.boxes)
        called: dict[int, str] = {}
        left = []
        for row, name in enumerate(sure.names):
            free = [
                column
                for column in np.argsort(-overlap[row])
                if overlap[row, column] >= CORRECT_IOU and column not in called
            ]
            same = [column for column in free if true[column] == name]
            if chosen := (same or free)[:1]:
                called[int(chosen[0])] = name
            else:
                left.append((row, name))
        for row, name in left:
            near = [
                column
                for column in np.argsort(-overlap[row])
                if NEARBY_IOU <= overlap[row, column] < CORRECT_IOU and column not in called and true[column] == name
            ]
            if near:
                called[int(near[0])] = BOX_OFF
            elif name in dataset.class_names and not _in_crowd(sure.boxes[row], name, image, dataset):
                alarms[name] += 1
        calls.update((name, called.get(column, MISSED)) for column, name in enumerate(true))
    return Confusion(dataset.class_names, dict(calls), dict(alarms))


def _in_crowd(box: npt.NDArray[np.float32], name: str, image: LabeledImage, dataset: CocoDataset) -> bool:
    """As COCO's own evaluation has it: by the share of the box that lies in the crowd's."""
    crowds = image.crowds[image.crowd_labels == dataset.class_names.index(name)]
    return bool((share_inside(box, crowds) >= CORRECT_IOU).any())
