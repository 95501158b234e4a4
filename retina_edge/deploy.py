"""``retina-edge deploy``: a model as Triton Inference Server or DeepStream takes it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from retina_edge.cli import argument_types, running
from retina_edge.deployment import deepstream, triton
from retina_edge.deployment.deployable_model import DeployableModel


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb and gives its exit code."""
    arguments = _parser().parse_args(argv)
    return running.run(lambda: int(arguments.run(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retina-edge deploy", description="Write a model as Triton Inference Server or DeepStream takes it."
    )
    servers = parser.add_subparsers(required=True, metavar="triton|deepstream")
    server = servers.add_parser("triton", help="a model repository for Triton Inference Server")
    server.add_argument("model", type=Path, metavar="MODEL.engine|MODEL.onnx")
    server.add_argument("-o", "--output", type=Path, required=True, metavar="REPOSITORY")
    server.add_argument("--name", help="what clients call the model (default: the file's name)")
    server.add_argument(
        "--max-batch",
        type=argument_types.positive_int,
        metavar="N",
        help="most images Triton puts together, for a model of any batch "
        f"(default: the engine's, of an ONNX {triton.DEFAULT_MAX_BATCH})",
    )
    server.add_argument(
        "--raw-heads",
        action="store_true",
        help="serve an engine that ends at the raw heads as it is; decode and NMS are the client's",
    )
    server.set_defaults(run=_triton)
    server = servers.add_parser("deepstream", help="configurations and a library for DeepStream")
    server.add_argument("model", type=Path, metavar="MODEL.engine")
    server.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    server.add_argument(
        "--streams",
        type=argument_types.positive_int,
        metavar="N",
        help="how many streams there are (default: the engine's batch)",
    )
    server.set_defaults(run=_deepstream)
    return parser


def _triton(arguments: argparse.Namespace) -> int:
    model = DeployableModel.read(arguments.model)
    folder = triton.write_repository(
        model, arguments.output, name=arguments.name, max_batch=arguments.max_batch, raw_heads=arguments.raw_heads
    )
    print(
        f"{folder}  for tritonserver --model-repository={arguments.output}; {folder / 'README.md'} is for its clients"
    )
    return 0


def _deepstream(arguments: argparse.Namespace) -> int:
    model = DeployableModel.read(arguments.model)
    folder = deepstream.write_folder(model, arguments.output, streams=arguments.streams)
    print(
        f"{folder}  for DeepStream {deepstream.MIN_VERSION} or newer, where it has not been run yet; "
        f"{folder / 'README.md'} says how"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
