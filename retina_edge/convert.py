"""``retina-edge convert``: convert a RetinaNet checkpoint of torchvision to a checkpoint of retina_edge."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from engines.core.errors import DataError
from retina_edge.cli import argument_types, running
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.system.console import Console
from retina_edge.system.output_file import check_output


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
        help="file with a state dict, or checkpoint of torchvision's reference training. The names coco_v1 and coco_v2 "
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
    return parser


def _convert(arguments: argparse.Namespace) -> int:
    from retina_edge.model import torchvision_checkpoint as torchvision

    # Fail before a download, not after it.
    inputs = [("checkpoint", arguments.checkpoint), ("class names", arguments.class_names)]
    check_output("--output", arguments.output, suffix=".pt", inputs=inputs)
    names = _read_names(arguments.class_names)
    if arguments.checkpoint in torchvision.PUBLISHED:
        weights, eps = torchvision.load_published(arguments.checkpoint, arguments.arch)
    else:
        weights, eps = torchvision.load_file(arguments.checkpoint)
    checkpoint = torchvision.convert(
        weights,
        arguments.arch,
        input_size=arguments.input,
        class_names=names,
        norm_eps=eps if arguments.norm_eps is None else arguments.norm_eps,
    )
    checkpoint.save(arguments.output)
    config, contract = checkpoint.config, checkpoint.contract
    Console().print(
        f"[bold]{escape(str(arguments.output))}[/bold]  {contract.architecture}, {contract.num_classes} classes, "
        f"input {contract.input_size[0]}x{contract.input_size[1]}, {config.backbone_norm} normalization with "
        f"epsilon {config.norm_eps:g}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


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
