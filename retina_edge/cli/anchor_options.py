"""The options of the input size and the anchors, which ``train`` and ``anchors`` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from retina_edge.cli import argument_types
from retina_edge.data.anchor_fit import DEFAULT_RATIOS


def add_anchor_options(
    parser: argparse._ActionsContainer,
    *,
    size: Callable[[str], object] = argument_types.positive_float,
    size_help: str = "",
) -> None:
    """Add the options to a parser.

    Args:
        parser: parser, or group of a parser.
        size: type of an anchor size.
        size_help: more text for the help of ``--anchors``.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_anchor_options(parser)
        >>> parser.parse_args(["--input", "416x736", "--anchors", "32", "64"]).anchors
        [32.0, 64.0]
    """
    add = parser.add_argument
    add(
        "--backbone-levels",
        type=int,
        choices=(3, 4, 5),
        default=5,
        metavar="3|4|5",
        help="last stage of the backbone that feeds the pyramid, C3 to C5 (default: %(default)s)",
    )
    add(
        "--input",
        type=argument_types.input_size,
        default=(800, 800),
        metavar="HxW",
        help="input size of the network in pixels, multiples of 32 (default: 800x800)",
    )
    add(
        "--anchors",
        type=size,
        nargs="+",
        metavar="PX",
        help=f"size of the smallest anchor of each pyramid level, in input pixels (default: 32 64 ...){size_help}",
    )
    add(
        "--aspect-ratios",
        type=argument_types.positive_float,
        nargs="+",
        default=DEFAULT_RATIOS,
        metavar="R",
        help="height / width of the anchors (default: 0.5 1 2)",
    )
