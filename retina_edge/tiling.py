"""Large pictures in tiles: cut, detected at the network's own scale, and put together again.

A box belongs to the tile whose share of the picture holds its centre; shares meet in the middle of two tiles' overlap.
So an object no larger than the overlap is whole in the tile that it belongs to, and what its neighbours see of it is
dropped. Non-maximum suppression then takes what two tiles found on either side of such a border.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import RetinaEdgeError
from engines.letterbox import as_bgr
from engines.plugins.reference import Candidates, nms
from retina_edge.detections import Detections
from retina_edge.detector import Detector, Frame, Submitted


@dataclass(frozen=True)
class Tile:
    """One tile of a picture, pixels.

    Attributes:
        top, left, bottom, right: what the network sees.
        share: (top, left, bottom, right) of the part whose centres are its own; shares cover the plane once.
    """

    top: int
    left: int
    bottom: int
    right: int
    share: tuple[float, float, float, float]


def cut(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Tile]:
    """Tiles that cover a picture, evenly spaced, row by row.

    Args:
        size: (height, width) of the picture, pixels.
        tile: (height, width) of a tile, pixels; a smaller picture is one tile of its own size.
        overlap: least overlap of neighbours, pixels, less than a tile's sides.
    """
    rows, columns = (_spans(length, side, overlap) for length, side in zip(size, tile, strict=True))
    return [
        Tile(top, left, bottom, right, (share_top, share_left, share_bottom, share_right))
        for top, bottom, share_top, share_bottom in rows
        for left, right, share_left, share_right in columns
    ]


class TiledDetector(Detector):
    """A detector of large pictures; boxes are in the pixels of the whole.

    Args:
        detector: of the tiles; whoever made it closes it.
        tile: (height, width) of a tile, pixels, padded where the picture is smaller; None for the network's input, so
            that nothing is scaled.
        overlap: least overlap of neighbours, pixels: as large as the largest object.
        batch: tiles an inference; None for the model's own, or 1.

    Raises:
        RetinaEdgeError: an overlap that leaves no tile, or a batch that the model cannot give.
    """

    def __init__(
        self, detector: Detector, *, tile: tuple[int, int] | None = None, overlap: int = 64, batch: int | None = None
    ) -> None:
        super().__init__(detector.executor)
        self.tile = tile or self.contract.input_size
        self.overlap = overlap
        if not 0 <= overlap < min(self.tile):
            height, width = self.tile
            raise RetinaEdgeError(
                f"overlap: expected 0 to less than a side of the tile of {height}x{width} pixels, got {overlap}"
            )
        self._batch = detector.check_batch(batch)

    def submit(self, frames: Any) -> Submitted[Any]:
        """As ``Detector.submit``: a frame or a list of frames, of any sizes."""
        alone = isinstance(frames, np.ndarray)
        pictures = [as_bgr(frame) for frame in ([frames] if alone else frames)]
        layouts = [cut((picture.shape[0], picture.shape[1]), self.tile, self.overlap) for picture in pictures]
        crops = [
            self._padded(picture[tile.top : tile.bottom, tile.left : tile.right])
            for picture, layout in zip(pictures, layouts, strict=True)
            for tile in layout
        ]
        parts = [
            self.executor.submit(crops[start : start + self._batch]) for start in range(0, len(crops), self._batch)
        ]

        def whole(found: list[Detections]) -> Any:
            rest = iter(found)
            merged = [
                self._merge(layout, [next(rest) for _ in layout], picture)
                for layout, picture in zip(layouts, pictures, strict=True)
            ]
            return merged[0] if alone else merged

        return Submitted(parts, whole)

    def check_batch(self, asked: int | None) -> int:
        """One picture at a time: it is its tiles that make a batch."""
        if asked not in (None, 1):
            raise RetinaEdgeError(f"batch: expected one picture at a time, got {asked}; its tiles make a batch")
        return 1

    def _padded(self, crop: Frame) -> Frame:
        """As large as a tile, or the letterbox would enlarge what a small picture shows."""
        height, width = self.tile
        if crop.shape[:2] == self.tile:
            return crop
        return np.pad(crop, ((0, height - crop.shape[0]), (0, width - crop.shape[1]), (0, 0)))

    def _merge(self, layout: Sequence[Tile], found: Sequence[Detections], picture: Frame) -> Detections:
        own = [_own(tile, detections) for tile, detections in zip(layout, found, strict=True)]
        boxes, scores, labels = (
            np.concatenate([getattr(detections, name) for detections in own]) for name in ("boxes", "scores", "labels")
        )
        order = np.argsort(-scores, kind="stable")
        candidates = Candidates(scores[order], boxes[order], labels[order])
        threshold = np.float32(self.contract.iou_threshold)
        kept = order[nms(candidates, threshold, max(1, len(order)))]
        limits = np.array([picture.shape[1], picture.shape[0]] * 2, np.float32)
        merged = own[0]
        return Detections(
            np.minimum(boxes[kept], limits), scores[kept], labels[kept], merged.class_names, merged.category_ids
        )


def _own(tile: Tile, detections: Detections) -> Detections:
    """The boxes that belong to a tile, in the pixels of the picture."""
    boxes = detections.boxes + np.array([tile.left, tile.top, tile.left, tile.top], np.float32)
    x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
    top, left, bottom, right = tile.share
    keep: npt.NDArray[np.bool_] = (top <= y) & (y < bottom) & (left <= x) & (x < right)
    moved = Detections(boxes, detections.scores, detections.labels, detections.class_names, detections.category_ids)
    return moved[keep]


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int, float, float]]:
    """Begin and end of each tile along an axis, and of its share."""
    side = min(side, length)
    count = 1 if side == length else math.ceil((length - overlap) / (side - overlap))
    begins = [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
    borders = [(before + side + after) / 2 for before, after in itertools.pairwise(begins)]
    edges = [-math.inf, *borders, math.inf]
    return [(begin, begin + side, edges[index], edges[index + 1]) for index, begin in enumerate(begins)]
