"""The numbers of a data set that decide the options of a training run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from engines.core.errors import DataError
from retina_edge.data.dataset import DetectionDataset


@dataclass(frozen=True)
class DataSummary:
    """The numbers of a data set.

    Attributes:
        images: number of images.
        empty: number of images without boxes.
        image_size: (height, width), the median of each, pixels.
        boxes: number of boxes by class name, without crowds.
        sizes: square root of the area of a box, pixels: the 5th, 50th and 95th percentile.

    Examples:
        >>> from retina_edge.data.load import load_dataset
        >>> summary = DataSummary.of(load_dataset("tests/data/treecrowns/val.json", None))
        >>> summary.images, summary.image_size, summary.boxes
        (16, (400, 400), {'tree': 296})
    """

    images: int
    empty: int
    image_size: tuple[int, int]
    boxes: dict[str, int]
    sizes: tuple[float, float, float]

    @classmethod
    def of(cls, data: DetectionDataset) -> DataSummary:
        """Summarize a data set.

        Raises:
            DataError: if no image has a box, so that there is nothing to learn.
        """
        counts: Counter[int] = Counter()
        for image in data.images:
            counts.update(image.labels.tolist())
        if not counts:
            raise DataError(
                f"{data.annotations}: expected boxes to learn from, found none outside of crowds; add annotations"
            )
        sides = np.concatenate([image.boxes[:, 2:] - image.boxes[:, :2] for image in data.images])
        low, median, high = (float(value) for value in np.percentile(np.sqrt(sides.prod(axis=1)), (5, 50, 95)))
        height, width = (int(value) for value in np.median([image.size for image in data.images], axis=0))
        return cls(
            images=len(data),
            empty=sum(len(image.boxes) == 0 for image in data.images),
            image_size=(height, width),
            boxes={name: counts[label] for label, name in enumerate(data.class_names)},
            sizes=(low, median, high),
        )

    def scale_to(self, input_size: tuple[int, int]) -> float:
        """Return the factor from pixels of a typical image to pixels of a network's input of (height, width)."""
        return min(side / own for side, own in zip(input_size, self.image_size, strict=True))

    def lines(self) -> list[str]:
        """Return the summary as lines for the user."""
        (height, width), (low, median, high) = self.image_size, self.sizes
        empty = f", {self.empty} of them without objects" if self.empty else ""
        named = ", ".join(f"{name} {count}" for name, count in list(self.boxes.items())[:10])
        more = f" and {len(self.boxes) - 10} more classes" if len(self.boxes) > 10 else ""
        return [
            f"{self.images} images, typically {width}x{height} pixels (width x height){empty}",
            f"{sum(self.boxes.values())} objects: {named}{more}",
            f"most objects are {low:.0f} to {high:.0f} pixels large, the median is {median:.0f}",
        ]
