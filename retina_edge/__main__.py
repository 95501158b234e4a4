"""The console script ``retina-edge VERB ...``.

Each verb is a module with ``main(argv) -> int``, which ``python -m retina_edge.VERB`` also runs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from retina_edge import __version__
from retina_edge.cli import running
from retina_edge.cli.verb_parser import VerbParser, did_you_mean

VERBS = {
    "anchors": "check if the anchors fit a data set, and suggest better ones",
    "train": "train a RetinaNet on labeled images",
    "convert": "convert a torchvision RetinaNet checkpoint",
    "export": "write a checkpoint as a deployable ONNX",
    "build": "build a TensorRT engine in FP32, FP16 or INT8 from a checkpoint or an ONNX",
    "inspect": "describe a model file: its contract, and the precision of each layer",
    "detect": "run a model on images, videos or a camera",
    "serve": "run a model on many cameras, with a web page and an API",
    "bench": "measure the latency of each stage and the throughput, or run an MLPerf scenario",
    "evaluate": "measure the COCO average precision of a model",
    "deploy": "write the files that Triton or DeepStream needs for a model",
    "doctor": "check packages, runtimes and devices, and say how to fix problems",
    "demo": "detect tree crowns on a flight over a forest",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code. Only the module of that verb is imported."""
    lines = [f"  {verb:<10}{purpose}" for verb, purpose in VERBS.items()]
    parser = VerbParser(
        "retina-edge",
        "RetinaNet from PyTorch to real-time detection.",
        example="retina-edge demo",
        epilog="\n".join(["verbs:", *lines, "", "Run retina-edge VERB --help for the options of a verb."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retina-edge {__version__}")
    parser.add_argument("verb", metavar="VERB", help="one of the verbs below")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        parser.print_help()
        return 2
    # Parse only up to the verb, so that --help and --version after it go to the verb.
    position = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    verb = parser.parse_args(arguments[: position + 1]).verb
    if verb not in VERBS:
        parser.error(f"expected a verb, got {verb!r}{did_you_mean(verb, VERBS)}")
    return running.run(lambda: int(importlib.import_module(f"retina_edge.{verb}").main(arguments[position + 1 :])))


if __name__ == "__main__":
    raise SystemExit(main())
