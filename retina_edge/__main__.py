"""The console script ``retina-edge VERB ...``.

Each verb is a module with ``main(argv) -> int``, also run as ``python -m retina_edge.VERB``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from retina_edge import __version__
from retina_edge.cli import running

VERBS = {
    "anchors": "say whether the anchors fit a data set, and which would",
    "train": "train a RetinaNet on COCO annotations",
    "convert": "take over a torchvision RetinaNet checkpoint",
    "export": "write a checkpoint as a deployable ONNX",
    "build": "build a TensorRT engine, FP32, FP16 or INT8, of a checkpoint or an ONNX",
    "inspect": "say what an engine or an ONNX is: contract, precision of each layer",
    "detect": "run a model on images, videos or a camera",
    "serve": "run a model on many cameras, with a page to look at",
    "bench": "measure latency of each stage, throughput, MLPerf scenarios",
    "evaluate": "COCO average precision of a model",
    "deploy": "write a model as Triton or DeepStream takes it",
    "doctor": "say what is installed, what works, and how to mend the rest",
    "demo": "detect tree crowns on a flight over a forest",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and gives its exit code; only that verb's module is imported."""
    lines = [f"  {verb:<10}{purpose}" for verb, purpose in VERBS.items()]
    parser = argparse.ArgumentParser(
        prog="retina-edge",
        usage="retina-edge [--help] [--version] VERB ...",
        description="RetinaNet from PyTorch to real-time detection.",
        epilog="\n".join(["verbs:", *lines, "", "retina-edge VERB --help says more."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retina-edge {__version__}")
    parser.add_argument("verb", choices=list(VERBS), metavar="VERB", help="one of those below")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        parser.print_help()
        return 2
    # The verb's own arguments are kept from this parser, so that their --help and --version stay theirs.
    position = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    verb = parser.parse_args(arguments[: position + 1]).verb
    return running.run(lambda: int(importlib.import_module(f"retina_edge.{verb}").main(arguments[position + 1 :])))


if __name__ == "__main__":
    raise SystemExit(main())
