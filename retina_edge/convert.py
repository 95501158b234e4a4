"""``retina-edge convert``: convert a RetinaNet checkpoint of torchvision to a checkpoint of retina_edge.

A state dict says little about its model. What the verb assumes, it prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from engines.core.errors import ContractError, DataError
from retina_edge.cli import argument_types, running
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.system.console import Console
from retina_edge.system.output_file import check_output
from retina_edge.system.printable import printable

if TYPE_CHECKING:
    from retina_edge.model.checkpoint import Checkpoint
    from retina_edge.model.wrapped_weights import WrappedWeights


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return running.run(lambda: _convert(arguments))


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge convert",
        "Convert a RetinaNet checkpoint of torchvision.",
        example="retina-edge convert coco_v1 --arch retinanet_resnet50_fpn --input 800x1088 -o coco.pt",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="file with a state dict, alone or in the checkpoint of a training program. The names coco_v1 and coco_v2 "
        "download the COCO weights that torchvision published for its first and its second architecture",
    )
    parser.add_argument(
        "--arch",
        choices=["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"],
        required=True,
        metavar="ARCHITECTURE",
        help="torchvision's name for the architecture of the weights: retinanet_resnet50_fpn or "
        "retinanet_resnet50_fpn_v2",
    )
    parser.add_argument(
        "--input",
        type=argument_types.input_size,
        required=True,
        metavar="HxW",
        help="input size of the network in pixels, multiples of 32",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.pt", help="checkpoint to write")
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="text file with one class name per line, beginning with label 0, which is the background in torchvision "
        "(default: the COCO names if there are 91 classes, else class_0, class_1, ...)",
    )
    parser.add_argument(
        "--norm-eps",
        type=float,
        metavar="EPS",
        help="epsilon of the backbone's normalization (default: 1e-5; 0 for the published coco_v1)",
    )
    parser.add_argument(
        "--anchors",
        type=_level_sizes,
        nargs="+",
        metavar="PX",
        help="anchor sizes of each pyramid level in training, in pixels, several of one level with commas: "
        "16,20,25 32,40,50 ... A single size stands for three, as in torchvision, if the checkpoint has three "
        "(default: 32 64 128 256 512)",
    )
    parser.add_argument(
        "--aspect-ratios",
        type=argument_types.positive_float,
        nargs="+",
        metavar="R",
        help="height / width of the anchors in training (default: 0.5 1 2)",
    )
    parser.add_argument(
        "--ema", action="store_true", help="take the averaged weights of training instead of those of the last step"
    )
    return parser


def _convert(arguments: argparse.Namespace) -> int:
    from retina_edge.model import torchvision_checkpoint as torchvision  # needs torch

    # Fail before a download, not after it.
    inputs = [("checkpoint", arguments.checkpoint), ("class names", arguments.class_names)]
    check_output("--output", arguments.output, suffix=".pt", inputs=inputs)
    names = _read_names(arguments.class_names)
    lines = []
    if arguments.checkpoint in torchvision.PUBLISHED:
        if arguments.ema:
            raise ContractError(f"--ema: expected a file of training, got the published {arguments.checkpoint}")
        weights, eps = torchvision.load_published(arguments.checkpoint, arguments.arch)
    else:
        found, eps = torchvision.load_file(arguments.checkpoint, ema=arguments.ema)
        weights, lines = found.weights, _taken(found)
    checkpoint = torchvision.convert(
        weights,
        arguments.arch,
        input_size=arguments.input,
        class_names=names,
        norm_eps=eps if arguments.norm_eps is None else arguments.norm_eps,
        anchor_sizes=arguments.anchors,
        aspect_ratios=arguments.aspect_ratios,
    )
    checkpoint.save(arguments.output)
    config, contract = checkpoint.config, checkpoint.contract
    console = Console()
    console.print(
        f"[bold]{escape(str(arguments.output))}[/bold]  {contract.architecture}, {contract.num_classes} classes, "
        f"input {contract.input_size[0]}x{contract.input_size[1]}, {config.backbone_norm} normalization with "
        f"epsilon {config.norm_eps:g}",
        highlight=False,
        soft_wrap=True,
    )
    if arguments.checkpoint not in torchvision.PUBLISHED:
        lines += _assumed(checkpoint, arguments)
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _taken(found: WrappedWeights) -> list[str]:
    """Return lines that say which weights of the file were taken, as far as there was a choice."""
    lines = []
    if found.place:
        lines.append(f"taken: the weights {found.place}")
    if found.left_out:
        lines.append(f"left out: {', '.join(map(printable, found.left_out[:3]))}, which belong to no RetinaNet")
    if found.averaged:
        lines.append(f"left out: the averaged weights {printable(found.averaged)}, which --ema takes")
    return lines


def _assumed(checkpoint: Checkpoint, arguments: argparse.Namespace) -> list[str]:
    """Return lines that name what the weights do not say and no option says."""
    config, names = checkpoint.config, checkpoint.contract.class_names
    lines = []
    if arguments.anchors is None or arguments.aspect_ratios is None:
        sizes = " ".join(",".join(f"{size:g}" for size in level) for level in config.anchor_sizes)
        ratios = " ".join(f"{ratio:g}" for ratio in config.aspect_ratios)
        lines.append(f"anchors of {sizes} pixels with aspect ratios {ratios} (--anchors, --aspect-ratios)")
    if arguments.class_names is None:
        lines.append(f"class names {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} (--class-names)")
    if arguments.norm_eps is None:
        lines.append(f"epsilon {config.norm_eps:g} of the backbone's normalization (--norm-eps)")
    lines.append(
        "RGB images with ImageNet's mean and standard deviation, in which an input of "
        f"{arguments.input[0]}x{arguments.input[1]} shows objects as large as in training (--input)"
    )
    return [f"assumed: {line}" for line in lines]


def _level_sizes(text: str) -> tuple[float, ...]:
    return tuple(argument_types.positive_float(size) for size in text.split(","))


def _read_names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(
            f"{path}: expected class names, one per line, got a file that cannot be read ({error.strerror}); "
            "correct --class-names"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected class names in UTF-8, one per line, got other bytes ({error}); save the file as UTF-8"
        ) from error
    while names and not names[-1].strip():
        names.pop()
    for line, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(
                f"{path}, line {line}: expected a class name, got an empty line; write the name of label {line - 1}"
            )
    return [name.strip() for name in names]


if __name__ == "__main__":
    raise SystemExit(main())
