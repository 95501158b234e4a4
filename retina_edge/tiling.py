"""Detection in large images: cut them into tiles, detect at the network's own scale, and merge the boxes.

A box belongs to the tile whose share of the image contains its center. The shares of two neighbors meet in the middle
of their overlap. An object that is no larger than the overlap is therefore complete in the tile that it belongs to. The
boxes that neighbors find for parts of the object are dropped. Non-maximum suppression then removes duplicates along the
borders of the shares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.core.errors import RetinaEdgeError
from engines.core.executor import Ticket
from engines.core.frame_region import FrameRegion, frame_size
from engines.core.gpu_frame import GpuFrame, Pixels
from engines.core.letterbox import BgrImage
from engines.plugins.specification import Candidates, nms
from retina_edge.detections import Detections
from retina_edge.detector import Detector, Merge


@dataclass(frozen=True)
class Tile:
    """One tile of an image; all values in pixels.

    Attributes:
        top, left, bottom, right: the part that the network sees.
        share: (top, left, bottom, right) of the part whose box centers belong to this tile. The shares of all tiles
            cover the plane exactly once.
    """

    top: int
    left: int
    bottom: int
    right: int
    share: tuple[float, float, float, float]


def tile_layout(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Tile]:
    """Return evenly spaced tiles that cover an image, row by row.

    Args:
        size: (height, width) of the image, pixels.
        tile: (height, width) of a tile, pixels; a smaller image is one tile of its own size.
        overlap: minimum overlap of neighbors, pixels, less than the sides of a tile.

    Examples:
        >>> [(tile.left, tile.right) for tile in tile_layout((400, 1000), (400, 400), 64)]
        [(0, 400), (300, 700), (600, 1000)]
    """
    rows, columns = (_spans(length, side, overlap) for length, side in zip(size, tile, strict=True))
    return [
        Tile(top, left, bottom, right, (share_top, share_left, share_bottom, share_right))
        for top, bottom, share_top, share_bottom in rows
        for left, right, share_left, share_right in columns
    ]


class TiledDetector(Detector):
    """A detector for large images; its boxes are in pixels of the whole image.

    Args:
        detector: detector that runs on the tiles. The tiled detector borrows it and does not close it.
        tile: (height, width) of a tile, pixels; a smaller image is padded to this size. None for the network's input
            size, so that nothing is scaled.
        overlap: minimum overlap of neighbors, pixels; it should be as large as the largest object.
        batch: tiles in a batch; None for the model's own batch, or 1.

    Raises:
        RetinaEdgeError: if the overlap is as large as a tile, or the model cannot take the batch.

    Examples:
        >>> from retina_edge.assets import FOREST, MODEL
        >>> with Detector.load(MODEL) as detector:
        ...     detections = TiledDetector(detector, overlap=64)(FOREST)
        >>> len(detections) > 0
        True
    """

    def __init__(
        self, detector: Detector, *, tile: tuple[int, int] | None = None, overlap: int = 64, batch: int | None = None
    ) -> None:
        super().__init__(detector.executor, name=detector._name, device=detector._device)
        self._detector = detector
        detector.borrowers.add(self)
        self.tile = tile or self.contract.input_size
        self.overlap = overlap
        if not 0 <= overlap < min(self.tile):
            height, width = self.tile
            raise RetinaEdgeError(
                f"overlap: expected 0 to less than a side of the tile of {height}x{width} pixels, got {overlap}"
            )
        self._tiles_per_batch = detector.choose_batch(batch)

    def choose_batch(self, requested: int | None, *, frames: int = 1) -> int:  # noqa: ARG002
        """Return 1: images are processed one at a time, because their tiles make up the batches.

        Args:
            requested: number of images; None or 1.
            frames: not used, since images wait for each other anyway.

        Raises:
            RetinaEdgeError: if another number is requested.
        """
        if requested not in (None, 1):
            raise RetinaEdgeError(
                f"batch: expected one image at a time, because its tiles make up the batch, got {requested}; set the "
                "number of tiles in a batch instead"
            )
        return 1

    def close(self) -> None:
        """End all streams. The borrowed detector belongs to the caller and stays open."""
        self._end_borrowers()

    @property
    def closed(self) -> bool:
        """True if the borrowed detector is closed."""
        return self._detector.closed

    def _submit(self, frames: Sequence[BgrImage | GpuFrame]) -> tuple[list[Ticket], Merge]:
        sizes = [frame_size(frame) for frame in frames]
        layouts = [tile_layout(size, self.tile, self.overlap) for size in sizes]
        regions, tickets = self._regions(frames, layouts), []
        while batch := list(itertools.islice(regions, self._tiles_per_batch)):
            tickets.append(self.executor.submit(batch))

        def merge(detections: list[Detections]) -> list[Detections]:
            remaining = iter(detections)
            return [
                self._merge(layout, [next(remaining) for _ in layout], size)
                for layout, size in zip(layouts, sizes, strict=True)
            ]

        return tickets, merge

    def _regions(
        self, frames: Sequence[BgrImage | GpuFrame], layouts: Sequence[Sequence[Tile]]
    ) -> Iterator[FrameRegion]:
        """Yield the tiles. Each frame is uploaded once, when its first tile is asked for."""
        for frame, layout in zip(frames, layouts, strict=True):
            source: BgrImage | GpuFrame | Pixels = frame
            if len(layout) > 1 and not isinstance(frame, GpuFrame):
                source = self.executor.upload(frame)
            for tile in layout:
                # As large as a tile also at the edge of a small image, so that the letterbox does not enlarge it.
                yield FrameRegion(source, tile.top, tile.left, self.tile)

    def _merge(self, layout: Sequence[Tile], tiles: Sequence[Detections], size: tuple[int, int]) -> Detections:
        own = [_own_boxes(tile, detections) for tile, detections in zip(layout, tiles, strict=True)]
        boxes, scores, labels = (
            np.concatenate([getattr(detections, name) for detections in own]) for name in ("boxes", "scores", "labels")
        )
        order = np.argsort(-scores, kind="stable")
        candidates = Candidates(scores[order], boxes[order], labels[order])
        threshold = np.float32(self.contract.iou_threshold)
        kept = order[nms(candidates, threshold, max(1, len(order)), agnostic=self.contract.agnostic)]
        limits = np.array([size[1], size[0]] * 2, np.float32)
        return Detections(
            np.minimum(boxes[kept], limits), scores[kept], labels[kept], own[0].class_names, own[0].category_ids
        )


def _own_boxes(tile: Tile, detections: Detections) -> Detections:
    """Return the detections that belong to a tile, in pixels of the image."""
    boxes = detections.boxes + np.array([tile.left, tile.top, tile.left, tile.top], np.float32)
    x, y = (boxes[:, :2] + boxes[:, 2:]).T / 2
    top, left, bottom, right = tile.share
    keep: npt.NDArray[np.bool_] = (top <= y) & (y < bottom) & (left <= x) & (x < right)
    moved = detections.with_boxes(boxes)
    return moved[keep]


def _spans(length: int, side: int, overlap: int) -> list[tuple[int, int, float, float]]:
    """Return (begin, end, begin of the share, end of the share) of each tile along one axis, in pixels."""
    side = min(side, length)
    count = 1 if side == length else math.ceil((length - overlap) / (side - overlap))
    begins = [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
    borders = [(before + side + after) / 2 for before, after in itertools.pairwise(begins)]
    edges = [-math.inf, *borders, math.inf]
    return [(begin, begin + side, edges[index], edges[index + 1]) for index, begin in enumerate(begins)]
