"""``retina-edge export``: a checkpoint becomes a deployable ONNX, verified against torch before it is written."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from engines.contract import CPU, LAYOUTS, PRECISIONS
from engines.errors import ContractError
from retina_edge import accuracy_arguments, calibration_arguments, cli
from retina_edge.verification_images import MOST_IMAGES, read_images, windows_of_forest

if TYPE_CHECKING:
    from export.deployable import ExportReport
    from export.precision import Drift

# What of the contract is not learnt, and so may be chosen at export.
POSTPROCESSING = {"score_threshold": float, "iou_threshold": float, "top_k": int, "max_detections": int}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb and gives its exit code."""
    arguments = _parser().parse_args(argv)
    return cli.run(lambda: _export(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retina-edge export", description="Write a checkpoint as a deployable ONNX, verified against torch."
    )
    parser.add_argument("model", type=Path, metavar="MODEL.pt")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.onnx")
    parser.add_argument("--batch", type=_batch, default=1, metavar="N|dynamic", help="images at a time (default: 1)")
    parser.add_argument(
        "--input", type=cli.input_size, metavar="HxW", help="another input size than the model was trained at"
    )
    for field, kind in POSTPROCESSING.items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=kind, help="instead of the checkpoint's")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the network (default: fp32)")
    parser.add_argument(
        "--for",
        dest="layout",
        choices=LAYOUTS,
        help="who is to run an int8 ONNX fast: ONNX Runtime on a CPU (the default), or TensorRT",
    )
    calibration_arguments.add(parser)
    accuracy_arguments.add(parser)
    parser.add_argument(
        "--half-weights",
        action="store_true",
        help="store the weights in float16, half the file; computing stays in float32",
    )
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="DIR|FILE",
        help=f"real images to verify with, the first {MOST_IMAGES}; by default the forest that comes along",
    )
    return parser


def _export(arguments: argparse.Namespace) -> int:
    from export.deployable import export_onnx
    from retina_edge.model.checkpoint import load_checkpoint

    for option, given, precision in (
        ("--half-weights", arguments.half_weights, "fp32"),
        ("--for", arguments.layout is not None, "int8"),
    ):
        if given and arguments.precision != precision:
            raise ContractError(f"{option} is for {precision}, got --precision {arguments.precision}; leave one out")
    console = Console()
    with console.status("exporting and verifying") as status, tempfile.TemporaryDirectory() as folder:
        calibration = calibration_arguments.calibration(
            arguments,
            made_of="fp32",
            layout=arguments.layout or CPU,
            progress=lambda done, count: status.update(f"calibrating: {done} of {count} images"),
        )
        budget = accuracy_arguments.accuracy_budget(
            arguments,
            made_of="fp32",
            tell=lambda doing, done, count: status.update(f"{doing}: {done} of {count} images" if count else doing),
        )
        checkpoint = load_checkpoint(arguments.model)
        model, contract = checkpoint.build_model(), checkpoint.contract
        chosen = {field: getattr(arguments, field) for field in POSTPROCESSING}
        contract = dataclasses.replace(contract, **{key: value for key, value in chosen.items() if value is not None})
        if arguments.input and arguments.input != contract.input_size:
            contract = dataclasses.replace(contract, input_size=arguments.input, levels=model.pyramid(arguments.input))
        images = read_images(arguments.images) if arguments.images else windows_of_forest(contract.input_size)
        fp32 = arguments.output if arguments.precision == "fp32" else Path(folder) / "fp32.onnx"
        report = export_onnx(
            model, contract, fp32, batch=arguments.batch, images=images, half_weights=arguments.half_weights
        )
        drift = None
        if arguments.precision != "fp32":
            from export.precision import convert_file

            status.update(f"converting to {arguments.precision}")
            size, drift = convert_file(
                fp32, arguments.output, arguments.precision, images=images, calibration=calibration, budget=budget
            )
            contract = dataclasses.replace(report.contract, precision=arguments.precision)
            report = dataclasses.replace(report, path=arguments.output, size=size, contract=contract)
    _print(console, report, drift, half_weights=arguments.half_weights)
    if drift is not None and drift.accuracy is not None:
        accuracy_arguments.print_accuracy(console, dataclasses.asdict(drift.accuracy), arguments.precision)
    if calibration is not None:
        calibration_arguments.print_findings(calibration)
    return 0


def _print(console: Console, report: ExportReport, drift: Drift | None, *, half_weights: bool) -> None:
    contract, agreement = report.contract, report.agreement
    weights = ", weights stored in fp16" if half_weights else ""
    lines = [
        f"[bold]{escape(str(report.path))}[/bold]  {report.size / 1e6:.1f} MB, batch {report.batch or 'dynamic'}, "
        f"input {contract.input_size[0]}x{contract.input_size[1]}, {contract.precision}{weights}",
        f"verified on {agreement.images} images with {agreement.detections} detections; greatest difference "
        f"to torch: logits {agreement.logits:.1e}, deltas {agreement.deltas:.1e}; "
        f"to the specification: boxes {agreement.boxes:.1e} px, scores {agreement.scores:.1e}",
    ]
    if drift is not None:
        name, decibels = drift.worst
        lines.append(
            f"{contract.precision} against fp32: {drift.detections} detections; the raw head furthest off is {name}, "
            f"with {decibels:.1f} dB of signal to noise"
        )
    if not agreement.detections:
        lines.append(
            "[yellow]nothing was detected in these images, so decode and NMS were compared on empty results: "
            "give images of the training data with --images[/yellow]"
        )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of images or 'dynamic', got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
