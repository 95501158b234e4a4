"""``retina-edge deploy``: write the files that Triton Inference Server or DeepStream needs for a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from retina_edge.cli import argument_types, running
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.deployment import deepstream, triton
from retina_edge.deployment.deployable_model import DeployableModel


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return running.run(lambda: int(arguments.run(arguments)))


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge deploy",
        "Write the files that Triton Inference Server or DeepStream needs for a model.",
        example="retina-edge deploy triton model.engine -o repository",
    )
    servers = parser.add_subparsers(
        required=True, metavar="triton|deepstream", help="server; retina-edge deploy SERVER --help has its options"
    )
    server = servers.add_parser(
        "triton",
        help="write a model repository for Triton Inference Server",
        description="Write a model repository for Triton Inference Server.",
        example="retina-edge deploy triton model.engine -o repository --max-batch 4",
    )
    server.add_argument("model", type=Path, metavar="MODEL.engine|MODEL.onnx", help="model to deploy")
    server.add_argument(
        "-o", "--output", type=Path, required=True, metavar="REPOSITORY", help="folder of the model repository"
    )
    server.add_argument(
        "--name", metavar="NAME", help="name of the model for clients (default: the name of the model file)"
    )
    server.add_argument(
        "--max-batch",
        type=argument_types.positive_int,
        metavar="N",
        help="largest number of images that Triton puts in a batch, if the model accepts several batch sizes "
        f"(default: the engine's largest; {triton.DEFAULT_MAX_BATCH} for an ONNX)",
    )
    server.add_argument(
        "--raw-heads",
        action="store_true",
        help="accept an engine that outputs raw heads, and leave decode and NMS to the client",
    )
    server.set_defaults(run=_triton)
    server = servers.add_parser(
        "deepstream",
        help="write configurations and a library for DeepStream",
        description="Write configurations and a library for DeepStream.",
        example="retina-edge deploy deepstream model.engine -o deepstream --streams 4",
    )
    server.add_argument("model", type=Path, metavar="MODEL.engine", help="engine that outputs boxes")
    server.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    server.add_argument(
        "--streams",
        type=argument_types.positive_int,
        metavar="N",
        help="number of streams (default: the engine's largest batch)",
    )
    server.set_defaults(run=_deepstream)
    return parser


def _triton(arguments: argparse.Namespace) -> int:
    model = DeployableModel.read(arguments.model)
    folder = triton.write_repository(
        model, arguments.output, name=arguments.name, max_batch=arguments.max_batch, raw_heads=arguments.raw_heads
    )
    print(
        f"{folder}  start the server with tritonserver --model-repository={arguments.output}; "
        f"{folder / 'README.md'} describes clients"
    )
    return 0


def _deepstream(arguments: argparse.Namespace) -> int:
    model = DeployableModel.read(arguments.model)
    folder = deepstream.write_folder(model, arguments.output, streams=arguments.streams)
    print(
        f"{folder}  for DeepStream {deepstream.MIN_VERSION} or newer, not tested there yet; see {folder / 'README.md'}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
