"""The options for detection in tiles, which several functions share."""

from __future__ import annotations

from dataclasses import dataclass

from engines.core.option_checks import check_integer, check_size
from retina_edge.detector import Detector
from retina_edge.tiling import TiledDetector

DEFAULT_OVERLAP = 64


@dataclass(frozen=True)
class TileOptions:
    """The tiles that large images are cut into.

    Attributes:
        size: (height, width) of a tile, pixels; None for the network's input size.
        overlap: minimum overlap of neighboring tiles, pixels; it should be as large as the largest object.

    Raises:
        ContractError: if an option is out of range.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> with Detector.load(MODEL) as detector:
        ...     isinstance(TileOptions(overlap=96).apply(detector, batch=None), TiledDetector)
        True
    """

    size: tuple[int, int] | None = None
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if self.size is not None:
            check_size("size", self.size)
        check_integer("overlap", self.overlap, 0)

    def apply(self, detector: Detector, *, batch: int | None) -> TiledDetector:
        """Return a detector that cuts images into tiles; it borrows ``detector``.

        Args:
            detector: detector that runs on the tiles.
            batch: tiles in a batch; None for the model's own, or 1.

        Raises:
            RetinaEdgeError: if the overlap is as large as a tile, or the model cannot take the batch.
        """
        return TiledDetector(detector, tile=self.size, overlap=self.overlap, batch=batch)
