"""``retina-edge anchors``: measure how well anchors fit the objects of a data set, and suggest better ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from retina_edge.cli import running
from retina_edge.cli.anchor_options import add_anchor_options
from retina_edge.data.anchor_fit import (
    DEFAULT_SIZES,
    FINEST_STRIDE,
    MATCH_IOU,
    AnchorFit,
    fit_anchors,
    input_boxes,
    suggest_anchors,
)
from retina_edge.data.coco import load_coco


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb."""
    parser = argparse.ArgumentParser(
        prog="retina-edge anchors",
        description="Measure how well anchors fit the boxes of a data set, and suggest anchors that fit better.",
    )
    add = parser.add_argument
    add("annotations", type=Path, metavar="ANNOTATIONS.json", help="COCO annotations; the images are not needed")
    add_anchor_options(parser)
    add("--skip-invalid", action="store_true", help="skip boxes that have no area or lie outside their image")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    # The pyramid has one level for each of the stages C3 to Cn, and two coarser levels: n levels together.
    levels = args.backbone_levels
    sizes = tuple(args.anchors or DEFAULT_SIZES[:levels])
    if len(sizes) != levels:
        parser.error(f"--anchors: expected {levels} sizes, one for each level of the pyramid, got {len(sizes)}")
    return running.run(lambda: _anchors(args, sizes))


def _anchors(args: argparse.Namespace, sizes: tuple[float, ...]) -> int:
    dataset = load_coco(args.annotations, None, skip_invalid=args.skip_invalid)
    boxes = input_boxes(dataset, args.input)
    given = fit_anchors(boxes, args.input, sizes, args.aspect_ratios)
    suggested = suggest_anchors(boxes, args.input, sizes, args.aspect_ratios)
    if args.json:
        print(json.dumps({"input": args.input, "given": given.to_dict(), "suggested": suggested.to_dict()}, indent=2))
        return 0
    console = Console()
    height, width = args.input
    console.print(f"{args.annotations.name}: {len(boxes)} boxes in an input of {height}x{width}", highlight=False)
    _print(console, "given", given)
    if suggested == given:
        console.print("no other anchors fit clearly better")
        return 0
    _print(console, "suggested", suggested)
    console.print(f"train with {suggested.options}, or with --anchors auto", highlight=False, soft_wrap=True)
    return 0


def _print(console: Console, title: str, fit: AnchorFit) -> None:
    table = Table("boxes", "", f"matched at IoU {MATCH_IOU}", "not matched", "mean of best IoU", title=title)
    table.title_justify = "left"
    for name, size in fit.sizes.items():
        if size.boxes:
            shares = (f"{size.recall:.1%}", f"{1 - size.recall:.1%}", f"{size.mean_iou:.3f}")
            table.add_row(name, str(size.boxes), *shares)
    console.print(table)
    console.print(fit.options, highlight=False, soft_wrap=True)
    if fit.under_stride:
        console.print(
            f"{fit.under_stride:.1%} of the boxes have a side shorter than {FINEST_STRIDE} pixels, the stride of the "
            "finest level: for these, a larger input or tiles help more than other anchors",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    raise SystemExit(main())
