"""Types of command-line arguments that several verbs use. Each converts text to a checked value."""

from __future__ import annotations

import argparse
import math

from engines.core.errors import ContractError

# Help of the option --device of every verb that runs a model.
DEVICE_HELP = (
    "for a .pt: auto, cpu or cuda; for an .onnx: cpu, or cuda, tensorrt or tensorrt-rtx for ONNX Runtime's providers; "
    "for an .engine: cuda; with :N for another GPU than 0 (default: auto, a GPU for a .pt if torch sees one, the CPU "
    "for an .onnx)"
)


def size(text: str) -> tuple[int, int]:
    """Convert ``HxW`` to (height, width) in pixels.

    Examples:
        >>> size("416x736")
        (416, 736)
    """
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, for instance 416x736, got {text!r}")
    return int(sides[0]), int(sides[1])


def input_size(text: str) -> tuple[int, int]:
    """Convert ``HxW`` to (height, width) in pixels, both multiples of 32.

    Examples:
        >>> input_size("416x736")
        (416, 736)
    """
    value = size(text)
    from engines.core.contract import check_input_size  # imports NumPy, which can be broken when the doctor runs

    try:
        check_input_size(value)
    except ContractError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def non_negative_int(text: str) -> int:
    """Convert text to an integer of 0 or more.

    Examples:
        >>> non_negative_int("0")
        0
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return int(text)


def positive_int(text: str) -> int:
    """Convert text to an integer of at least 1.

    Examples:
        >>> positive_int("0")
        Traceback (most recent call last):
            ...
        argparse.ArgumentTypeError: expected a whole number of at least 1, got '0'
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """Convert text to a finite number above 0.

    Examples:
        >>> positive_float("2.5")
        2.5
    """
    value = to_float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def clip_seconds(text: str) -> float:
    """Convert text to seconds before or after an event: 0 to 60.

    Examples:
        >>> clip_seconds("2.5")
        2.5
    """
    value = to_float(text)
    if not 0 <= value <= 60:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 to 60, got {text!r}")
    return value


def frame_rate(text: str) -> float:
    """Convert text to a rate in frames per second: above 0 and at most 1000.

    Examples:
        >>> frame_rate("29.97")
        29.97
    """
    value = to_float(text)
    from retina_edge.sources.frames import MAX_GIVEN_FPS  # imports NumPy, which can be broken when the doctor runs

    if not 0 < value <= MAX_GIVEN_FPS:
        raise argparse.ArgumentTypeError(f"expected frames per second, above 0 and at most 1000, got {text!r}")
    return value


def score(text: str) -> float:
    """Convert text to a score: 0 or more and less than 1.

    Examples:
        >>> score("0.4")
        0.4
    """
    value = to_float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a score from 0 to below 1, got {text!r}")
    return value


def to_float(text: str) -> float:
    """Convert text to a number. Other text becomes NaN, which is outside every range.

    Examples:
        >>> to_float("many")
        nan
    """
    try:
        return float(text)
    except ValueError:
        return math.nan
