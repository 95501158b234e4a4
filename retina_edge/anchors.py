"""``retina-edge anchors``: measure how well anchors fit the objects of a data set, and suggest better ones."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from engines.core.machine import this_machine
from retina_edge.cli import argument_types, running
from retina_edge.cli.training_options import add_size_options
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.data.anchor_fit import (
    DEFAULT_RATIOS,
    DEFAULT_SIZES,
    MATCH_IOU,
    AnchorFit,
    fit_anchors,
    input_boxes,
    suggest_anchors,
    without_idle_ratios,
)
from retina_edge.data.load import load_dataset
from retina_edge.data.summary import DataSummary
from retina_edge.model.config import FINEST_STRIDE
from retina_edge.system.console import Console
from retina_edge.system.table import Table
from retina_edge.training.plan import CPU, CUDA, choose_input_size, choose_levels

EXPLANATION = (
    f"An anchor matches an object if they overlap by an IoU of {MATCH_IOU} or more. The network learns a matched "
    "object from all its anchors, and another object from the nearest anchor alone, so most objects should be matched."
)


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge anchors",
        f"Measure how well anchors fit the objects of a data set, and suggest anchors that fit better. {EXPLANATION}",
        example="retina-edge anchors train.json --input 416x736",
    )
    add = parser.add_argument
    add(
        "annotations",
        type=Path,
        metavar="DATA",
        help="COCO file, YOLO data.yaml, or folder of a data set, as for train; only YOLO needs the images",
    )
    chosen = "the one that train would choose"
    add_size_options(add, size=chosen, levels=chosen)
    add(
        "--anchors",
        type=argument_types.positive_float,
        nargs="+",
        metavar="PX",
        help="size of the smallest anchor of each pyramid level to measure, in input pixels (default: 32 64 ...)",
    )
    add(
        "--aspect-ratios",
        type=argument_types.positive_float,
        nargs="+",
        default=DEFAULT_RATIOS,
        metavar="R",
        help="height / width of the anchors to measure (default: 0.5 1 2)",
    )
    add("--skip-invalid", action="store_true", help="skip boxes that have no area or lie outside their image")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    levels = args.backbone_levels or (len(args.anchors) if args.anchors else None)
    # The pyramid has one level for each of the stages C3 to Cn, and two coarser levels: n levels together.
    if args.anchors and (len(args.anchors) != levels or levels not in (3, 4, 5)):
        expected = args.backbone_levels or "3 to 5"
        parser.error(
            f"--anchors: expected {expected} sizes, one for each level of the pyramid, got {len(args.anchors)}"
        )
    return running.run(lambda: _anchors(args, levels))


def _anchors(args: argparse.Namespace, levels: int | None) -> int:
    dataset = load_dataset(args.annotations, skip_invalid=args.skip_invalid, need_images=False)
    device = CUDA if this_machine().gpu else CPU
    size = args.input or choose_input_size(DataSummary.of(dataset), device)[0]
    boxes = input_boxes(dataset, size)
    levels = levels or choose_levels(boxes, device)[0]
    sizes = tuple(args.anchors or DEFAULT_SIZES[:levels])
    given = fit_anchors(boxes, size, sizes, args.aspect_ratios)
    suggested = without_idle_ratios(suggest_anchors(boxes, size, sizes, args.aspect_ratios), boxes, size)
    if args.json:
        print(json.dumps({"input": size, "given": given.to_dict(), "suggested": suggested.to_dict()}, indent=2))
        return 0
    console = Console()
    height, width = size
    console.print(f"{dataset.annotations.name}: {len(boxes)} objects in an input of {height}x{width}", highlight=False)
    console.print(EXPLANATION, highlight=False)
    _print(console, "measured", given)
    if suggested == given:
        console.print("no other anchors fit clearly better")
        return 0
    _print(console, "suggested", suggested)
    command = f"retina-edge train {shlex.quote(str(args.annotations))} -o model.pt --input {height}x{width}"
    levels_option = f"--backbone-levels {levels}"
    console.print(f"train with: {command} {levels_option} {suggested.options}", highlight=False, soft_wrap=True)
    return 0


def _print(console: Console, title: str, fit: AnchorFit) -> None:
    headers = ("size of objects", "objects", f"matched at IoU {MATCH_IOU}", "not matched", "mean of best IoU")
    table = Table(*headers, title=f"{title}: {fit.options}")
    for name, size in fit.sizes.items():
        if size.boxes:
            shares = (f"{size.recall:.1%}", f"{1 - size.recall:.1%}", f"{size.mean_iou:.3f}")
            table.add_row(name, str(size.boxes), *shares)
    console.print(table)
    if fit.under_stride:
        console.print(
            f"{fit.under_stride:.1%} of the objects have a side shorter than {FINEST_STRIDE} pixels, the stride of the "
            "finest level: for these, a larger input or tiles help more than other anchors",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    raise SystemExit(main())
