"""``retina-edge evaluate``: measure a model on labeled images, or tracks against ground truth."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.progress import Progress

from engines.core.atomic_file import atomic_file
from engines.tensorrt.passport import passport_path
from retina_edge.api.evaluating import EvaluationOptions, EvaluationResult, evaluate
from retina_edge.cli import argument_types, running
from retina_edge.cli.no_objects import why_no_objects
from retina_edge.cli.tile_options import add_tile_options, tile_options
from retina_edge.cli.track_evaluation import check_track_options, measure_tracks
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.data.dataset import DetectionDataset
from retina_edge.detections import DEFAULT_SCORE
from retina_edge.evaluation.coco_metrics import MAX_DETECTIONS, METRICS, Evaluation
from retina_edge.evaluation.comparison import Comparison
from retina_edge.evaluation.comparison_report import report_files, write_report
from retina_edge.evaluation.confusion import Confusion
from retina_edge.system.console import Console
from retina_edge.system.output_file import Input, check_output
from retina_edge.system.printable import printable
from retina_edge.system.table import Table

REPORT = Path("out/against")


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge evaluate",
        "Measure the COCO average precision of a model on labeled images; with --tracks, measure tracks.",
        example="retina-edge evaluate model.onnx val.json",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model.pt, model.onnx or model.engine; tracks with --tracks")
    add(
        "annotations",
        type=Path,
        metavar="DATA",
        help="labeled images: a COCO file, a YOLO data.yaml or obj.data, or a folder with val.json, data.yaml, "
        "obj.data, classes.txt or the XML files of Pascal VOC; the ground truth with --tracks",
    )
    add(
        "--tracks",
        action="store_true",
        help="measure HOTA, IDF1 and MOTA of tracks, without a model: MODEL is then MOTChallenge text or the JSON "
        "lines of detect --track, DATA is MOTChallenge text such as gt.txt, or both are folders of sequences",
    )
    add("--images", type=Path, metavar="DIR", help="folder of the images (default: found near the annotations)")
    add(
        "--skip-invalid",
        action="store_true",
        help="leave out images that cannot be used, and skip boxes that have no area or lie outside their image",
    )
    add("--json", type=Path, metavar="RESULT.json", help="file to write the metrics to (default: no file)")
    add = parser.add_argument_group("measurement").add_argument
    add(
        "--score",
        type=argument_types.score,
        default=DEFAULT_SCORE,
        metavar="S",
        help="score, from 0 to 1, that boxes in the confusion and in --against exceed; AP counts all boxes (default: "
        "%(default)s, as in detect)",
    )
    add(
        "--max-detections",
        type=argument_types.positive_int,
        default=MAX_DETECTIONS,
        metavar="N",
        help=f"number of best boxes of an image that count (default: {MAX_DETECTIONS}, as in COCO); large images can "
        "need more",
    )
    group = parser.add_argument_group("detection")
    add = group.add_argument
    add("--device", default="auto", help=argument_types.DEVICE_HELP)
    add(
        "--batch",
        type=argument_types.positive_int,
        metavar="N",
        help="images, or tiles, in a batch (default: the model's own, or 1)",
    )
    add_tile_options(group)
    add = parser.add_argument_group("comparison").add_argument
    add(
        "--against",
        type=Path,
        metavar="OTHER_MODEL",
        help="compare the model with another one, for instance in FP32: AP, matched boxes, drift of scores, and the "
        "images that changed most (default: no comparison)",
    )
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help=f"folder for index.html and changes.png of --against (default: {REPORT})",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.tracks:
        check_track_options(parser, args)
        return running.run(lambda: measure_tracks(args))
    args.tiles = tile_options(parser, args)
    if args.report and not args.against:
        parser.error("--report belongs to --against OTHER_MODEL; give both or leave --report out")
    return running.run(lambda: _evaluate(args))


def _evaluate(args: argparse.Namespace) -> int:
    options = EvaluationOptions(
        score=args.score,
        batch=args.batch,
        max_detections=args.max_detections,
        tiles=args.tiles,
        device=args.device,
        skip_invalid=args.skip_invalid,
    )
    models = [model for model in (args.model, args.against) if model]
    files = [*models, *map(passport_path, models)]
    _check_outputs(args, [("annotations", args.annotations), *(("model", file) for file in files)])
    console = Console()

    def on_dataset(dataset: DetectionDataset) -> None:
        _check_outputs(args, [("image", image.path) for image in dataset.images])
        _warn_of_many_objects(console, dataset, args.max_detections)

    with Progress(console=console, transient=True) as bars:
        tasks = {}

        def on_image(model: Path, images: int) -> None:
            if model not in tasks:
                tasks[model] = bars.add_task(escape(model.name), total=images)
            bars.advance(tasks[model])

        result = evaluate(
            args.model,
            args.annotations,
            args.images,
            options,
            against=args.against,
            on_message=lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False),
            on_dataset=on_dataset,
            on_image=on_image,
        )
    _print_metrics(console, args.model, result.evaluation)
    _print_confusion(console, result.confusion, args.score)
    if reason := _why_nothing(result, args.score):
        console.print(f"[yellow]{reason}[/yellow]", highlight=False, soft_wrap=True)
    if result.comparison is not None:
        _print_comparison(console, result.comparison)
        report = write_report(result.comparison, args.report or REPORT)
        console.print(f"written to {escape(str(report))}", highlight=False, soft_wrap=True)
    if args.json:
        _write_json(result, args.json)
    return 0


def _check_outputs(args: argparse.Namespace, inputs: Sequence[Input]) -> None:
    if args.json:
        check_output("--json", args.json, inputs=inputs)
    if args.against:
        for path in report_files(args.report or REPORT):
            check_output("--report", path, inputs=inputs)


def _write_json(result: EvaluationResult, path: Path) -> None:
    with atomic_file(path) as file:
        file.write(f"{json.dumps(result.to_dict(), indent=2)}\n".encode())


def _warn_of_many_objects(console: Console, dataset: DetectionDataset, max_detections: int) -> None:
    most = max(len(image.boxes) for image in dataset.images)
    if most > max_detections:
        console.print(
            f"an image has {most} objects, but only {max_detections} boxes of an image count; raise --max-detections",
            highlight=False,
        )


def _print_metrics(console: Console, model: Path, result: Evaluation) -> None:
    title = f"{printable(model.name)}: {result.images} images, {result.detections} detections"
    console.print(title, highlight=False, soft_wrap=True, markup=False)
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in result.per_class.items():
        table.add_row(f"AP {name}", f"{value:.4f}")
    console.print(table)


def _print_confusion(console: Console, confusion: Confusion, score: float) -> None:
    """Print a row for each class, and a line for each pair of classes that was confused."""
    console.print(f"boxes that score more than {score:g}:", highlight=False)
    table = Table("class", "objects", "found", "box off", "missed", "false alarms")
    for row in confusion.rows():
        table.add_row(*map(str, row))
    console.print(table)
    for true, predicted, count in confusion.mistaken():
        console.print(f"{count} {escape(true)} taken for {escape(predicted)}", highlight=False)


def _why_nothing(result: EvaluationResult, score: float) -> str:
    """Return the reason why the model found nothing; empty text if it found something."""
    if result.best_score <= score:
        reason = why_no_objects(result.best_score, score=score, model_threshold=result.model_threshold)
        return f"nothing found: {reason}"
    if result.evaluation.metrics["AP50"] == 0:
        return (
            f"AP50 is 0, although the best score is {result.best_score:.2f}: no box lies on an object of its class. "
            "Check that classes, annotations and images belong together, and are like those of the training"
        )
    return ""


def _print_comparison(console: Console, comparison: Comparison) -> None:
    table = Table("", comparison.first.name, comparison.second.name, "difference")
    for name in METRICS:
        first, second = comparison.first.evaluation.metrics[name], comparison.second.evaluation.metrics[name]
        table.add_row(name, f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}")
    console.print(table)
    console.print(escape(comparison.summary()), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
