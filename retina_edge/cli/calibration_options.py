"""The options of INT8 calibration that ``export`` and ``build`` share."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.core.contract import CPU, TENSORRT
from export.precision.calibration import CALIBRATORS, DEFAULT_CALIBRATORS, DEFAULT_IMAGES
from retina_edge.api.calibration import CalibrationOptions
from retina_edge.cli import argument_types
from retina_edge.system.printable import printable


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser, as a group."""
    add = parser.add_argument_group("calibration", "For INT8: the images that the ranges are measured on.").add_argument
    add(
        "--calibration",
        type=Path,
        metavar="DIR|COCO.json|data.yaml",
        help="images like those of the camera, as a folder, or as a COCO file or YOLO data.yaml that lists them "
        "(default: none; INT8 needs them)",
    )
    add(
        "--calibration-images",
        type=argument_types.positive_int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help="number of images to use, spread evenly over all images (default: %(default)s)",
    )
    add(
        "--calibrator",
        choices=CALIBRATORS,
        help="method that chooses the ranges of activations "
        f"(default: {DEFAULT_CALIBRATORS[TENSORRT]} for TensorRT, {DEFAULT_CALIBRATORS[CPU]} for a CPU)",
    )
    add(
        "--calibration-cache",
        type=Path,
        metavar="DIR",
        help="folder that keeps measured ranges for the next run with the same weights, images and settings (default: "
        "retina_edge/calibration in the user's cache folder)",
    )


def calibration_options(args: argparse.Namespace) -> CalibrationOptions | None:
    """Return the options; None without ``--calibration``.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> add_calibration_options(parser)
        >>> calibration_options(parser.parse_args(["--calibration", "images", "--calibration-images", "64"])).count
        64
    """
    if args.calibration is None:
        return None
    options = CalibrationOptions(args.calibration, args.calibration_images, args.calibrator)
    return dataclasses.replace(options, cache=args.calibration_cache) if args.calibration_cache else options


def print_findings(findings: Sequence[str]) -> None:
    """Print the remarks of the audit of the calibration set on stderr."""
    for finding in findings:
        print(f"calibration: {printable(finding)}", file=sys.stderr)
