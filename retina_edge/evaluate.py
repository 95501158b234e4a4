"""``retina-edge evaluate``: COCO average precision of any model on labelled images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from engines.files import atomic_file
from retina_edge import cli
from retina_edge.data.coco import load_coco
from retina_edge.detector import Detector
from retina_edge.evaluation import MOST, Evaluation, evaluate
from retina_edge.tile_arguments import add_tiles, check_tiles, with_tiles


def build_parser() -> argparse.ArgumentParser:
    """The options of the verb."""
    parser = argparse.ArgumentParser(prog="retina-edge evaluate", description=__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a .pt or .onnx of retina_edge")
    add("annotations", type=Path, metavar="ANNOTATIONS.json", help="COCO annotations")
    add("--images", type=Path, required=True, metavar="DIR", help="their images")
    add("--json", type=Path, metavar="RESULT.json", help="write the metrics there")
    add("--batch", type=cli.positive, help="images, or tiles, run together (default 1)")
    add(
        "--max-detections",
        type=cli.positive,
        default=MOST,
        metavar="N",
        help=f"best boxes of an image that count (default {MOST}, as COCO has it; large pictures hold more)",
    )
    add_tiles(parser)
    add("--device", default="auto", help="for a .pt: auto, cpu or cuda")
    add("--skip-invalid", action="store_true", help="leave out boxes without area or outside their image")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    check_tiles(parser, args)
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
    with Detector.load(args.model, device=args.device) as loaded, Progress(console=console, transient=True) as bar:
        detector = with_tiles(loaded, args)
        task = bar.add_task(escape(args.model.name), total=len(dataset))
        result = evaluate(
            detector,
            dataset,
            batch=1 if args.tile else args.batch or 1,
            most=args.max_detections,
            on_image=lambda: bar.advance(task),
        )
    _print(console, args.model, result)
    if args.json:
        with atomic_file(args.json) as file:
            file.write(f"{result.to_json()}\n".encode())
    return 0


def _print(console: Console, model: Path, result: Evaluation) -> None:
    table = Table(title=f"{escape(model.name)}: {result.images} images, {result.detections} detections")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in result.per_class.items():
        table.add_row(escape(f"AP {name}"), f"{value:.4f}")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
