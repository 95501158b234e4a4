"""``retina-edge export``: write a checkpoint as a deployable ONNX, verified against torch."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from engines.core.contract import LAYOUTS, PRECISIONS
from engines.core.errors import ContractError
from retina_edge.api.exporting import ExportOptions, ExportResult, export
from retina_edge.api.verification_images import MAX_VERIFICATION_IMAGES
from retina_edge.cli import argument_types, running
from retina_edge.cli.accuracy_options import accuracy_options, add_accuracy_options, print_accuracy
from retina_edge.cli.calibration_options import add_calibration_options, calibration_options, print_findings
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.system.console import Console

if TYPE_CHECKING:
    from export.precision.drift import Drift


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    args = build_parser().parse_args(argv)
    return running.run(lambda: _export(args))


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge export",
        "Write a checkpoint as a deployable ONNX, verified against torch.",
        example="retina-edge export model.pt -o model.onnx --batch dynamic",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.pt", help="checkpoint that train or convert wrote")
    add("-o", "--output", type=Path, required=True, metavar="MODEL.onnx", help="ONNX file to write")
    add(
        "--images",
        type=Path,
        nargs="+",
        default=(),
        metavar="DIR|FILE",
        help=f"images or folders to verify with; only the first {MAX_VERIFICATION_IMAGES} images are used "
        "(default: parts of the sample image)",
    )
    add = parser.add_argument_group("input and post-processing", "These values become part of the model.").add_argument
    add("--batch", type=_batch, default=1, metavar="N|dynamic", help="images in a batch (default: 1)")
    add(
        "--input",
        type=argument_types.input_size,
        metavar="HxW",
        help="input size in pixels, multiples of 32 (default: the checkpoint's)",
    )
    add(
        "--score-threshold",
        type=float,
        metavar="S",
        help="the model drops detections of this score, from 0 to 1, and less (default: the checkpoint's)",
    )
    add(
        "--iou-threshold",
        type=float,
        metavar="IOU",
        help="NMS drops a box whose IoU with a better box is above this, from 0 to 1 (default: the checkpoint's)",
    )
    add(
        "--agnostic",
        action=argparse.BooleanOptionalAction,
        help="class-agnostic NMS: boxes of different classes suppress each other, too (default: the checkpoint's)",
    )
    add("--top-k", type=int, metavar="K", help="most candidates per pyramid level (default: the checkpoint's)")
    add("--max-detections", type=int, metavar="N", help="most detections per image (default: the checkpoint's)")
    add(
        "--bit-depth",
        type=int,
        metavar="BITS",
        help="bits that image files of 16 bits use, 9 to 16 (default: the checkpoint's)",
    )
    add = parser.add_argument_group("precision").add_argument
    add("--precision", choices=PRECISIONS, default="fp32", help="precision of the network (default: fp32)")
    add(
        "--for",
        dest="layout",
        choices=LAYOUTS,
        help="for int8: runtime that will run the model: cpu is ONNX Runtime on a CPU, tensorrt is an engine that is "
        "built from the ONNX (default: cpu)",
    )
    add(
        "--half-weights",
        action="store_true",
        help="for fp32: store the weights in float16, which halves the file; the arithmetic stays float32",
    )
    add_calibration_options(parser)
    add_accuracy_options(parser)
    return parser


def _export(args: argparse.Namespace) -> int:
    if args.layout and args.precision != "int8":
        raise ContractError(f"--for: expected --precision int8, got {args.precision}; leave --for out")
    options = ExportOptions(
        precision=args.precision,
        layout=args.layout,
        batch=args.batch,
        input_size=args.input,
        score_threshold=args.score_threshold,
        iou_threshold=args.iou_threshold,
        agnostic=args.agnostic,
        top_k=args.top_k,
        max_detections=args.max_detections,
        bit_depth=args.bit_depth,
        half_weights=args.half_weights,
    )
    console = Console()
    with console.status("exporting and verifying") as status:

        def progress(step: str, done: float | None, total: float | None) -> None:
            status.update(f"{step}: {done:g} of {total:g} images" if done is not None and total else step)

        result = export(
            args.model,
            args.output,
            options,
            calibration=calibration_options(args),
            accuracy=accuracy_options(args),
            images=args.images,
            progress=progress,
        )
    _print(console, result, args)
    if result.drift is not None and result.drift.accuracy is not None:
        print_accuracy(console, dataclasses.asdict(result.drift.accuracy), args.precision)
    print_findings(result.findings)
    return 0


def _print(console: Console, result: ExportResult, args: argparse.Namespace) -> None:
    contract, agreement = result.contract, result.agreement
    weights = ", weights stored in fp16" if args.half_weights else ""
    lines = [
        f"[bold]{escape(str(result.path))}[/bold]  {result.size / 1e6:.1f} MB, batch {result.batch or 'dynamic'}, "
        f"input {contract.input_size[0]}x{contract.input_size[1]}, {contract.precision}{weights}",
        *(_compared(result, result.drift, args) if result.drift is not None else ()),
        f"verified on {agreement.images} images with {agreement.detections} detections; largest difference from torch: "
        f"logits {agreement.logits:.1e}, deltas {agreement.deltas:.1e}; from the specification: boxes "
        f"{agreement.boxes:.1e} px, scores {agreement.scores:.1e}",
    ]
    if not agreement.detections:
        lines.append(
            "[yellow]nothing was detected in these images, so decode and NMS were compared on empty results: "
            "give images of the training data with --images[/yellow]"
        )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _compared(result: ExportResult, drift: Drift, args: argparse.Namespace) -> Iterator[str]:
    """Yield lines that compare a precision with FP32, and say what is good."""
    from export.precision.drift import USUAL_SIGNAL_TO_NOISE  # needs onnx

    precision, (name, decibels) = result.contract.precision, drift.worst
    least, most = USUAL_SIGNAL_TO_NOISE[precision]
    yield (
        f"{precision} against fp32: {drift.detections} detections, fp32 has {result.agreement.detections}; the raw "
        f"head with the largest drift is {name}, with a signal-to-noise ratio of {decibels:.1f} dB "
        f"({least:g} to {most:g} dB are usual; higher is closer to fp32)"
    )
    if drift.accuracy is None:
        yield (
            f"to measure the AP that {precision} costs: retina-edge evaluate {escape(str(result.path))} VAL.json "
            f"--images DIR --against {escape(str(args.model))}"
        )


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of images or 'dynamic', got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
