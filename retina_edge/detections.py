"""The result of a detector on one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import MissingDependencyError


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes found in one frame, best first.

    Attributes:
        boxes: float32 [N, 4], xyxy, frame pixels.
        scores: float32 [N], 0 to 1.
        labels: int32 [N], index into ``class_names``.
        class_names: name of each label.
        category_ids: the training data set's id of each label.

    Raises:
        ValueError: a shape, dtype or label that does not fit.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        count = len(self.scores)
        for name, array, shape, dtype in (
            ("boxes", self.boxes, (count, 4), np.float32),
            ("scores", self.scores, (count,), np.float32),
            ("labels", self.labels, (count,), np.int32),
        ):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name}: expected {np.dtype(dtype)} {list(shape)}, got {array.dtype} {list(array.shape)}"
                )
        if len(self.class_names) != len(self.category_ids):
            raise ValueError(f"expected a category id a class name, got {self.category_ids} for {self.class_names}")
        if count and not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            raise ValueError(f"labels: expected 0 to {len(self.class_names) - 1}, got {np.unique(self.labels)}")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: npt.NDArray[Any] | slice) -> Detections:
        """The rows chosen by a slice, a mask or indices."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], self.class_names, self.category_ids)

    def above(self, score: float) -> Detections:
        """Those that score more than ``score``. The same as detecting with that higher threshold, because a box
        is only ever suppressed by a better one."""
        return self[self.scores > score] if len(self) else self

    @property
    def names(self) -> list[str]:
        """The class name of each row."""
        return [self.class_names[label] for label in self.labels]

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO results: dicts with image_id, category_id, bbox (x, y, width, height, frame pixels) and score."""
        return [
            {
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label in zip(
                self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> Any:
        """A ``supervision.Detections`` with ``class_name`` in its data.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingDependencyError("to_supervision needs supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    @classmethod
    def empty(cls, class_names: Sequence[str], category_ids: Sequence[int]) -> Detections:
        """No detections."""
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int32),
            tuple(class_names),
            tuple(category_ids),
        )
