"""``retina-edge evaluate``: COCO average precision of any model on labelled images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from engines.files import atomic_file
from retina_edge import cli
from retina_edge.confusion import Confusion, confusion
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.detections import Detections
from retina_edge.detector import Detector
from retina_edge.evaluation import METRICS, MOST, Evaluation, detect_all, score
from retina_edge.tile_arguments import add_tiles, check_tiles, with_tiles

if TYPE_CHECKING:
    from retina_edge.comparison import Comparison

REPORT = Path("out/against")
# Of a box that a user would be shown.
SCORE = 0.3


def build_parser() -> argparse.ArgumentParser:
    """The options of the verb."""
    parser = argparse.ArgumentParser(prog="retina-edge evaluate", description=__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a .pt, .onnx or .engine of retina_edge")
    add("annotations", type=Path, metavar="ANNOTATIONS.json", help="COCO annotations")
    add("--images", type=Path, required=True, metavar="DIR", help="their images")
    add("--json", type=Path, metavar="RESULT.json", help="write the metrics there")
    add(
        "--against",
        type=Path,
        metavar="OTHER_MODEL",
        help="compare with another model, for instance the one this was made of: boxes matched, scores, AP, and the "
        "images that changed most",
    )
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help=f"where --against writes index.html and changes.png (default: {REPORT})",
    )
    add(
        "--score",
        type=_score,
        default=SCORE,
        metavar="S",
        help="boxes that count in the confusion and with --against (default: %(default)s); AP is of all",
    )
    add("--batch", type=cli.positive, help="images, or tiles, run together (default 1)")
    add(
        "--max-detections",
        type=cli.positive,
        default=MOST,
        metavar="N",
        help=f"best boxes of an image that count (default {MOST}, as COCO has it; large pictures hold more)",
    )
    add_tiles(parser)
    add("--device", default="auto", help="for a .pt: auto, cpu or cuda; for an engine: cuda:N")
    add("--skip-invalid", action="store_true", help="leave out boxes without area or outside their image")
    return parser


def _score(text: str) -> float:
    value = cli.number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a score from 0 to below 1, got {text!r}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    check_tiles(parser, args)
    if args.report and not args.against:
        parser.error("--report belongs to --against OTHER_MODEL; give both or leave it out")
    return cli.run(lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> int:
    dataset = load_coco(args.annotations, args.images, skip_invalid=args.skip_invalid)
    console = Console()
    if (crowd := max(len(image.boxes) for image in dataset.images)) > args.max_detections:
        console.print(
            f"an image has {crowd} objects, of which {args.max_detections} can be found at most: the default of "
            "--max-detections is COCO's",
            highlight=False,
        )
    # First: what is wrong with it is said before the other has run over everything.
    other = _detect(args.against, dataset, args, console) if args.against else None
    found = _detect(args.model, dataset, args, console)
    result = score(found, dataset, most=args.max_detections)
    calls = confusion(found, dataset, args.score)
    _print(console, args.model, result)
    _print_confusion(console, calls, args.score)
    values: dict[str, Any] = {**result.to_dict(), "confusion": calls.to_dict()}
    if other is not None:
        from retina_edge.comparison import Side, compare
        from retina_edge.comparison_report import write_report

        first = Side(args.against.name, score(other, dataset, most=args.max_detections), other)
        changes = compare(first, Side(args.model.name, result, found), dataset, args.score)
        report = write_report(changes, args.report or REPORT)
        _print_comparison(console, changes)
        console.print(f"written to {escape(str(report))}", highlight=False, soft_wrap=True)
        values["against"] = changes.to_dict()
    if args.json:
        with atomic_file(args.json) as file:
            file.write(f"{json.dumps(values, indent=2)}\n".encode())
    return 0


def _detect(model: Path, dataset: CocoDataset, args: argparse.Namespace, console: Console) -> list[Detections]:
    with Detector.load(model, device=args.device) as loaded, Progress(console=console, transient=True) as bar:
        detector = with_tiles(loaded, args)
        batch = 1 if args.tile else loaded.check_batch(args.batch)
        task = bar.add_task(escape(model.name), total=len(dataset))
        return detect_all(detector, dataset, batch=batch, on_image=lambda: bar.advance(task))


def _print(console: Console, model: Path, result: Evaluation) -> None:
    table = Table(title=f"{escape(model.name)}: {result.images} images, {result.detections} detections")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in result.per_class.items():
        table.add_row(escape(f"AP {name}"), f"{value:.4f}")
    console.print(table)


def _print_confusion(console: Console, calls: Confusion, least: float) -> None:
    """One line a class; which class was taken for which, only where that happened."""
    table = Table(
        "class", "objects", "found", "box off", "missed", "false alarms", title=f"boxes that score more than {least:g}"
    )
    for row in calls.rows():
        table.add_row(*map(escape, map(str, row)))
    console.print(table)
    for true, taken, count in calls.mistaken():
        console.print(f"{count} {escape(true)} taken for {escape(taken)}", highlight=False)


def _print_comparison(console: Console, changes: Comparison) -> None:
    table = Table("", escape(changes.first.name), escape(changes.second.name), "difference")
    for name in METRICS:
        ours, theirs = changes.first.evaluation.metrics[name], changes.second.evaluation.metrics[name]
        table.add_row(name, f"{ours:.4f}", f"{theirs:.4f}", f"{theirs - ours:+.4f}")
    console.print(table)
    console.print(escape(changes.summary()), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
