"""``--tile`` and ``--overlap``, for every verb that detects in large pictures."""

from __future__ import annotations

import argparse

from retina_edge import cli
from retina_edge.detector import Detector

DEFAULT_OVERLAP = 64
INPUT = "input"


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Adds the two options."""
    parser.add_argument(
        "--tile",
        type=_tile,
        metavar="HxW|input",
        help="cut large pictures into tiles of that size, or of the network's own input, and put the boxes together",
    )
    parser.add_argument(
        "--overlap",
        type=cli.whole,
        metavar="PX",
        help=f"least overlap of tiles: as large as the largest object (default {DEFAULT_OVERLAP})",
    )


def check_tiles(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with the parser's error where one option wants the other."""
    if args.overlap is not None and args.tile is None:
        parser.error("--overlap: expected --tile with it")


def with_tiles(detector: Detector, args: argparse.Namespace) -> Detector:
    """The detector, of tiles if that was asked for; ``args.batch`` is then of tiles.

    Raises:
        RetinaEdgeError: an overlap or a batch that cannot be.
    """
    if args.tile is None:
        return detector
    from retina_edge.tiling import TiledDetector

    return TiledDetector(
        detector,
        tile=None if args.tile == INPUT else args.tile,
        overlap=DEFAULT_OVERLAP if args.overlap is None else args.overlap,
        batch=args.batch,
    )


def _tile(text: str) -> tuple[int, int] | str:
    return text if text == INPUT else cli.size(text)
