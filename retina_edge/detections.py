"""The detections of one frame: arrays for computing, rows for reading."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np
import numpy.typing as npt

from engines.core.errors import MissingDependencyError
from engines.core.letterbox import BgrImage, as_bgr

if TYPE_CHECKING:
    import supervision

# Score that detections exceed by default: in a call of a detector, in a stream, and in the verbs.
DEFAULT_SCORE = 0.4
# Number of classes that ``repr`` names; it counts the other classes together.
MAX_NAMED_CLASSES = 5


class CocoResult(TypedDict):
    """One detection in COCO's results format.

    Attributes:
        image_id: id of the image in the data set.
        category_id: the data set's id of the class.
        bbox: [x, y, width, height], frame pixels.
        score: score of the detection, 0 to 1.
    """

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


@dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
        box: (x1, y1, x2, y2), frame pixels.
        score: score of the detection, 0 to 1.
        label: index of the class, from 0.
        name: name of the class.

    Examples:
        >>> Detection((10.0, 20.0, 30.0, 60.0), score=0.9, label=0, name="tree").to_dict()
        {'box': [10.0, 20.0, 30.0, 60.0], 'score': 0.9, 'label': 0, 'name': 'tree'}
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: ``box`` to a hundredth of a pixel, ``score`` to four digits."""
        return {
            "box": [round(side, 2) for side in self.box],
            "score": round(self.score, 4),
            "label": self.label,
            "name": self.name,
        }


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects that a detector found in one frame, best first.

    ``len``, iteration and indexing work as for a list: a number gives a ``Detection``; a slice, a mask (bool [N]) or
    several numbers (int [K]) give ``Detections``.

    Attributes:
        boxes: float32 [N, 4], xyxy, frame pixels.
        scores: float32 [N], 0 to 1.
        labels: int32 [N], index into ``class_names``.
        class_names: name of each label.
        category_ids: the training data set's id of each label.
        frame: the frame, uint8 [height, width, 3], BGR, if the detector read it from a file or converted it from
            grayscale, BGRA or a PIL image. None if the frame belongs to the caller: a BGR array that the caller
            passed, or a frame of ``Detector.stream``.
        stream_frame: weak reference to the frame of ``Detector.stream``, so that stored detections do not keep all
            frames of a video in memory. ``plot`` uses it while the program keeps the frame.

    Raises:
        ValueError: if an array has the wrong shape or dtype, or a label has no class name.

    Examples:
        >>> detections = Detections(
        ...     boxes=np.array([[10, 20, 30, 60], [50, 20, 90, 60]], np.float32),
        ...     scores=np.array([0.9, 0.6], np.float32),
        ...     labels=np.array([0, 1], np.int32),
        ...     class_names=("tree", "car"),
        ...     category_ids=(1, 2),
        ... )
        >>> detections
        Detections(2: 1 tree, 1 car; best 0.90)
        >>> [detection.name for detection in detections]
        ['tree', 'car']
        >>> detections[0].box
        (10.0, 20.0, 30.0, 60.0)
        >>> detections[detections.scores > 0.8]
        Detections(1: 1 tree; best 0.90)
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    frame: BgrImage | None = field(default=None, repr=False)
    stream_frame: weakref.ReferenceType[BgrImage] | None = field(default=None, repr=False)

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
            raise ValueError(
                f"expected one category id for each class name, got {self.category_ids} for {self.class_names}"
            )
        if count and not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            raise ValueError(f"labels: expected 0 to {len(self.class_names) - 1}, got {np.unique(self.labels)}")

    @classmethod
    def empty(cls, class_names: Sequence[str], category_ids: Sequence[int]) -> Detections:
        """Return no detections.

        Examples:
            >>> Detections.empty(["tree"], [1])
            Detections(0)
        """
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int32),
            tuple(class_names),
            tuple(category_ids),
        )

    def with_boxes(self, boxes: npt.NDArray[np.floating]) -> Detections:
        """Return the same detections with other boxes, [n, 4], and without a frame to plot on."""
        moved = np.asarray(boxes, np.float32)
        return Detections(moved, self.scores, self.labels, self.class_names, self.category_ids)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in rows:
            yield Detection((x1, y1, x2, y2), score, label, self.class_names[label])

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, rows: slice | npt.NDArray[Any] | Sequence[int] | Sequence[bool]) -> Detections: ...

    def __getitem__(
        self, rows: int | np.integer[Any] | slice | npt.NDArray[Any] | Sequence[int] | Sequence[bool]
    ) -> Detection | Detections:
        if not isinstance(rows, slice):
            rows = _checked_rows(rows, len(self))
            if rows.ndim == 0:
                x1, y1, x2, y2 = self.boxes[rows].tolist()
                label = int(self.labels[rows])
                return Detection((x1, y1, x2, y2), float(self.scores[rows]), label, self.class_names[label])
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "stream_frame": None}  # a weak reference cannot be pickled

    def __repr__(self) -> str:
        if not len(self):
            return "Detections(0)"
        counts = Counter(self.names).most_common()
        shown = [f"{count} {name}" for name, count in counts[:MAX_NAMED_CLASSES]]
        if rest := sum(count for _, count in counts[MAX_NAMED_CLASSES:]):
            shown.append(f"{rest} other")
        return f"Detections({len(self)}: {', '.join(shown)}; best {self.scores.max():.2f})"

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label] for label in self.labels]

    @property
    def xywh(self) -> npt.NDArray[np.float32]:
        """The boxes as COCO writes them: float32 [N, 4], x and y of the top left corner, width, height, in pixels."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)

    @property
    def area(self) -> npt.NDArray[np.float32]:
        """The areas of the boxes: float32 [N], square pixels of the frame."""
        area: npt.NDArray[np.float32] = self.xywh[:, 2:].prod(axis=1)
        return area

    def above(self, score: float) -> Detections:
        """Return the detections that score more than ``score``.

        A detector with this score as its threshold returns the same detections, because NMS suppresses a box only in
        favor of a box with a higher score.

        Examples:
            >>> Detections.empty(["tree"], [1]).above(0.5)
            Detections(0)
        """
        return self[self.scores > score] if len(self) else self

    def plot(self, frame: BgrImage | None = None) -> BgrImage:
        """Return a copy of the frame with the boxes drawn into it, the best box on top.

        A box that is narrower than its label shows only its score.

        Args:
            frame: uint8 [height, width, 3], BGR (grayscale and BGRA are converted); by default the frame that was read
                or converted, or the frame of the stream while the program keeps it.

        Raises:
            ValueError: if ``frame`` is not a frame, or no frame is given and these detections know none.

        Examples:
            >>> Detections.empty(["tree"], [1]).plot(np.zeros((48, 64, 3), np.uint8)).shape
            (48, 64, 3)
        """
        from retina_edge.imaging.drawing import draw_boxes, label_texts

        if (image := self._known_frame() if frame is None else frame) is None:
            raise ValueError("frame: expected the frame of these detections, got none; call plot(frame)")
        annotated = as_bgr(image).copy()
        draw_boxes(annotated, self.boxes, self.labels, label_texts(self.names, self.scores))
        return annotated

    def _known_frame(self) -> BgrImage | None:
        return self.stream_frame() if self.frame is None and self.stream_frame is not None else self.frame

    def _repr_png_(self) -> bytes | None:
        """Show the annotated frame in a notebook, if the frame is known."""
        if self._known_frame() is None:
            return None
        from retina_edge.imaging.image_file import encode_image

        return encode_image(self.plot(), ".png")

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return plain values for JSON, as ``--json`` writes them.

        Examples:
            >>> Detections.empty(["tree"], [1]).to_dict()
            {'detections': []}
        """
        return {"detections": [detection.to_dict() for detection in self]}

    def to_json(self) -> str:
        """Return ``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_coco(self, image_id: int | np.integer[Any] = 0) -> list[CocoResult]:
        """Return the detections in COCO's results format, with the data set's category ids.

        Args:
            image_id: id of the image in the data set.

        Examples:
            >>> Detections.empty(["tree"], [1]).to_coco(image_id=7)
            []
        """
        return [
            {
                "image_id": image_id.item() if isinstance(image_id, np.integer) else image_id,
                "category_id": self.category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label in zip(
                self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> supervision.Detections:
        """Return a ``supervision.Detections`` with ``class_name`` in its data.

        Raises:
            MissingDependencyError: if supervision is not installed.
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


def _checked_rows(rows: Any, count: int) -> npt.NDArray[Any]:
    """Return the rows that an index selects: an integer [] or [K], or a mask, bool [count].

    Raises:
        TypeError: if the index is something else.
        IndexError: if the mask has another length.
    """
    expected = f"expected a row number, a slice, a mask (bool [{count}]) or several row numbers (int [K])"
    try:
        index = np.asarray(rows)
    except ValueError as error:  # lists of different lengths
        raise TypeError(f"{expected}, got {type(rows).__name__}") from error
    if index.shape == (0,) and index.dtype != np.bool_:
        index = index.astype(np.intp)  # NumPy makes an empty list float64
    if index.dtype.kind in "iu" and index.ndim <= 1:
        return index
    if index.dtype != np.bool_ or index.ndim != 1:
        advice = "; for the result of np.where, use np.flatnonzero" if isinstance(rows, tuple) else ""
        got = f"{index.dtype} {list(index.shape)}" if index.ndim else repr(rows)
        raise TypeError(f"{expected}, got {got}{advice}")
    if len(index) != count:
        raise IndexError(f"{expected}, got a mask of {len(index)}")
    return index
