"""The part of a data set that is held out of training, if there is no part to validate on."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from retina_edge.data.dataset import DetectionDataset

# Share of the images that is held out, and the seed of the choice.
HELD_OUT, SEED = 0.2, 0


def hold_out(data: DetectionDataset) -> tuple[DetectionDataset, DetectionDataset]:
    """Split a data set into a part to learn from and a part to validate on. The same data set is split the same way.

    Only images with objects are held out, and every class keeps an image to learn from. If that leaves none to hold
    out, both parts are the whole data set.

    Examples:
        >>> from retina_edge.data.load import load_dataset
        >>> train, val = hold_out(load_dataset("tests/data/treecrowns/val.json", None))
        >>> len(train), len(val)
        (13, 3)
    """
    count = int(HELD_OUT * len(data))
    classes = [set(image.labels.tolist()) for image in data.images]
    left = Counter(label for labels in classes for label in labels)
    chosen: set[int] = set()
    for index in np.random.default_rng(SEED).permutation(len(data)).tolist():
        if len(chosen) < count and classes[index] and all(left[label] > 1 for label in classes[index]):
            chosen.add(index)
            left.subtract(classes[index])
    if not chosen:
        return data, data
    parts = [
        tuple(image for index, image in enumerate(data.images) if (index in chosen) == held_out)
        for held_out in (False, True)
    ]
    # Images that were left out count in the part to learn from, so that a run which is resumed after some were damaged
    # has as many in all.
    return dataclasses.replace(data, images=parts[0]), dataclasses.replace(data, images=parts[1], left_out=0)
