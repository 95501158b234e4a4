"""``retina-edge export``: a checkpoint becomes a deployable ONNX, verified against torch before it is written."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape

from engines.errors import SourceError
from retina_edge import cli
from retina_edge.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.sample import FOREST

if TYPE_CHECKING:
    from export.deployable import ExportReport

# More pictures verify nothing new, and each is run four times.
MOST_IMAGES = 8
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

    checkpoint = load_checkpoint(arguments.model)
    model, contract = checkpoint.build_model(), checkpoint.contract
    given = {field: getattr(arguments, field) for field in POSTPROCESSING}
    contract = dataclasses.replace(contract, **{name: value for name, value in given.items() if value is not None})
    if arguments.input and arguments.input != contract.input_size:
        contract = dataclasses.replace(contract, input_size=arguments.input, levels=model.pyramid(arguments.input))
    images = _read_images(arguments.images) if arguments.images else _forest(contract.input_size)
    console = Console()
    with console.status("exporting and verifying"):
        report = export_onnx(
            model,
            contract,
            arguments.output,
            batch=arguments.batch,
            images=images,
            half_weights=arguments.half_weights,
        )
    _print(console, report, half_weights=arguments.half_weights)
    return 0


def _print(console: Console, report: ExportReport, *, half_weights: bool) -> None:
    contract, agreement = report.contract, report.agreement
    weights = ", weights stored in fp16" if half_weights else ""
    lines = [
        f"[bold]{escape(str(report.path))}[/bold]  {report.size / 1e6:.1f} MB, batch {report.batch or 'dynamic'}, "
        f"input {contract.input_size[0]}x{contract.input_size[1]}, {contract.precision}{weights}",
        f"verified on {agreement.images} images with {agreement.detections} detections; greatest difference "
        f"to torch: logits {agreement.logits:.1e}, deltas {agreement.deltas:.1e}; "
        f"to the specification: boxes {agreement.boxes:.1e} px, scores {agreement.scores:.1e}",
    ]
    if not agreement.detections:
        lines.append(
            "[yellow]nothing was detected in these images, so decode and NMS were compared on empty results: "
            "give images of the training data with --images[/yellow]"
        )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _read_images(paths: Sequence[Path]) -> list[npt.NDArray[Any]]:
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [file for file in inside if file == path or file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise SourceError(f"{', '.join(map(str, paths))}: expected images to verify with, found none")
    return [read_image(file) for file in files[:MOST_IMAGES]]


def _forest(input_size: tuple[int, int]) -> list[npt.NDArray[Any]]:
    """Windows of the picture that comes along, as large as the input where it is, and noise."""
    forest = read_image(FOREST)
    height, width = (min(side, limit) for side, limit in zip(input_size, forest.shape[:2], strict=True))
    lefts = np.linspace(0, forest.shape[1] - width, 3).astype(int)
    windows = [forest[:height, left : left + width] for left in lefts]
    return [*windows, np.random.default_rng(0).integers(0, 256, (*input_size, 3), np.uint8)]


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of images or 'dynamic', got {text!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
