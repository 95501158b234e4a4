"""The options ``--tile`` and ``--overlap`` of the verbs that detect in large images."""

from __future__ import annotations

import argparse

from retina_edge.api.tiles import DEFAULT_OVERLAP, TileOptions
from retina_edge.cli import argument_types

INPUT = "input"


def add_tile_options(parser: argparse._ActionsContainer) -> None:
    """Add the two options to a parser."""
    parser.add_argument(
        "--tile",
        type=_tile,
        metavar="HxW|input",
        help="detect in tiles of this size in pixels, or of the network's input size, and merge their boxes; for large "
        "images with small objects (default: no tiles)",
    )
    parser.add_argument(
        "--overlap",
        type=argument_types.non_negative_int,
        metavar="PX",
        help=f"minimum overlap of neighboring tiles in pixels; it should be as large as the largest object (default: "
        f"{DEFAULT_OVERLAP})",
    )


def tile_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> TileOptions | None:
    """Return the options; None without ``--tile``. End with the parser's error if ``--overlap`` is given alone.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_tile_options(parser)
        >>> tile_options(parser, parser.parse_args(["--tile", "416x736"]))
        TileOptions(size=(416, 736), overlap=64)
    """
    if args.tile is None:
        if args.overlap is not None:
            parser.error("--overlap needs --tile HxW; give both or leave --overlap out")
        return None
    overlap = DEFAULT_OVERLAP if args.overlap is None else args.overlap
    return TileOptions(None if args.tile == INPUT else args.tile, overlap)


def _tile(text: str) -> tuple[int, int] | str:
    return text if text == INPUT else argument_types.size(text)
