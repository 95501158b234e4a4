"""The options of the accuracy budget that ``export`` and ``build`` share, and the table of its trials."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.core.errors import ContractError
from retina_edge.api.accuracy import AccuracyOptions
from retina_edge.cli import argument_types
from retina_edge.system.console import Console
from retina_edge.system.printable import printable
from retina_edge.system.table import Table


def add_accuracy_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser, as a group."""
    add = parser.add_argument_group(
        "accuracy budget", "For FP16 and INT8: measure what the precision costs, and limit it."
    ).add_argument
    add(
        "--accuracy-budget",
        type=_points,
        metavar="POINTS",
        help="AP points, from 0 to 100, that may be lost against fp32, for instance 0.5. With int8, the layers that "
        "cost most fall back to fp16 until the budget holds. If that is impossible, nothing is written (default: no "
        "budget, nothing is measured)",
    )
    add(
        "--val",
        type=Path,
        metavar="DATA",
        help="COCO file, YOLO data.yaml, or folder of a data set to measure the budget on (default: none; a budget "
        "needs it)",
    )
    add(
        "--val-images",
        type=Path,
        metavar="DIR",
        help="folder of the images of --val (default: found near the annotations)",
    )
    add("--no-fallback", action="store_true", help="fail if the budget is exceeded, instead of keeping layers in fp16")


def accuracy_options(args: argparse.Namespace) -> AccuracyOptions | None:
    """Return the options; None without ``--accuracy-budget``.

    Raises:
        ContractError: if an option is given without another one that it needs.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_accuracy_options(parser)
        >>> accuracy_options(parser.parse_args(["--accuracy-budget", "0.5", "--val", "val.json"])).points
        0.5
    """
    if args.accuracy_budget is None:
        for option, given in (
            ("--val", args.val),
            ("--val-images", args.val_images),
            ("--no-fallback", args.no_fallback),
        ):
            if given:
                raise ContractError(f"{option} belongs to --accuracy-budget POINTS; give both or leave {option} out")
        return None
    if args.val is None:
        raise ContractError("--accuracy-budget needs labeled images to measure on: give --val DATA")
    return AccuracyOptions(args.accuracy_budget, args.val, args.val_images, not args.no_fallback)


def print_accuracy(console: Console, accuracy: Mapping[str, Any], precision: str) -> None:
    """Print a table of the trials, the layers that stay in fp16, and the speed.

    Args:
        console: console to print to.
        accuracy: an ``Accuracy`` as a passport stores it.
        precision: precision of the model that was made.
    """
    trials = accuracy["trials"]
    table = Table("", "layers kept in fp16", "AP", "points lost", "multiply-adds in int8")
    table.add_row("fp32", "", f"{100 * accuracy['ap_fp32']:.2f}", "", "")
    for trial in trials or [{"kept": (), "ap": accuracy["ap"], "share": None}]:
        share = "" if trial["share"] is None else f"{trial['share']:.1%}"
        lost = 100 * (accuracy["ap_fp32"] - trial["ap"])
        table.add_row(precision, str(len(trial["kept"])), f"{100 * trial['ap']:.2f}", f"{lost:.2f}", share)
    console.print(table)
    lines = [f"accuracy on {accuracy['data']['images']} images: within the budget of {accuracy['budget']:g} AP points"]
    if trials and trials[-1]["kept"]:
        lines.append(f"kept in fp16: {', '.join(trials[-1]['kept'])}")
    if accuracy["speed"] is not None:
        lines.append(f"speed of the network: {accuracy['speed']:g} times {accuracy['speed_against']}")
    console.print("\n".join(map(printable, lines)), highlight=False, markup=False, soft_wrap=True)


def _points(text: str) -> float:
    points = argument_types.to_float(text)
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"expected AP points from 0 to 100, for instance 0.5, got {text!r}")
    return points
