"""What the verbs of the command line share: how errors end, and argument types used more than once."""

from __future__ import annotations

import argparse
import math
import sys
import traceback
from collections.abc import Callable

from engines.errors import ContractError, RetinaEdgeError

# Which extra of pyproject.toml brings an optional package.
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "faster_coco_eval": "train",
    "onnx": "export",
    "onnxscript": "export",
    "paho": "serve",
}
# What every verb but the doctor needs, by module; it may be there and yet not load, for want of a system library.
BASE = {"numpy": "numpy", "cv2": "opencv-python", "onnxruntime": "onnxruntime"}
INTERRUPTED = 130  # what a shell reports for a process ended by SIGINT: 128 + 2


def run(body: Callable[[], int]) -> int:
    """Runs a verb's body and gives the exit code.

    Errors a user can mend (``RetinaEdgeError``, ``OSError``, a missing or broken package) become one line on stderr and
    exit code 1, Ctrl-C becomes 130. Anything else is a bug and keeps its traceback.
    """
    try:
        return body()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (RetinaEdgeError, OSError) as error:
        return _fail(error)
    except ImportError as error:
        if (broken := _broken_package(error)) is not None:
            return _fail(f"{broken} cannot be imported ({error}); retina-edge doctor says how to mend it")
        package = (error.name or "").partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or package not in EXTRAS:
            raise
        return _fail(f"this needs {package}, which is not installed: pip install '.[{EXTRAS[package]}]'")


def size(text: str) -> tuple[int, int]:
    """An argparse type: ``HxW`` to (height, width) in pixels."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, for instance 416x736, got {text!r}")
    return int(sides[0]), int(sides[1])


def input_size(text: str) -> tuple[int, int]:
    """An argparse type: ``HxW`` to (height, width) in pixels, multiples of 32."""
    found = size(text)
    from engines.contract import check_input_size  # with NumPy, which the doctor must do without

    try:
        check_input_size(found)
    except ContractError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return found


def whole(text: str) -> int:
    """An argparse type: a whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def number(text: str) -> float:
    """The number in a text; NaN, which lies in no range, where there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _broken_package(error: ImportError) -> str | None:
    """Which base package did not load: the error says it, or else the innermost whose code was running."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    for module in (error.name or "", *reversed(modules)):
        if module.partition(".")[0] in BASE:
            return BASE[module.partition(".")[0]]
    return None


def _fail(error: object) -> int:
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return 1
