"""The options of INT8 calibration that ``export`` and ``build`` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.core.contract import CPU, TENSORRT
from export.precision.calibration import CALIBRATORS, DEFAULT_CALIBRATORS, DEFAULT_IMAGES
from retina_edge.api.calibration import CalibrationOptions
from retina_edge.cli import argument_types
from retina_edge.system.folders import calibration_cache


def add_calibration_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR|COCO.json",
        help="for int8: images like those of the camera, as a folder or as a COCO file that lists images beside it",
    )
    parser.add_argument(
        "--calibration-images",
        type=argument_types.positive_int,
        default=DEFAULT_IMAGES,
        metavar="N",
        help=f"number of images to use, spread evenly over all images (default: {DEFAULT_IMAGES})",
    )
    parser.add_argument(
        "--calibrator",
        choices=CALIBRATORS,
        help="method that chooses the ranges of activations "
        f"(default: {DEFAULT_CALIBRATORS[TENSORRT]} for TensorRT, {DEFAULT_CALIBRATORS[CPU]} for a CPU)",
    )
    parser.add_argument(
        "--calibration-cache",
        type=Path,
        default=calibration_cache(),
        metavar="DIR",
        help="folder that keeps measured ranges for the next run with the same weights, images and settings (default: "
        "%(default)s)",
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
    return CalibrationOptions(args.calibration, args.calibration_images, args.calibrator, args.calibration_cache)


def print_findings(findings: Sequence[str]) -> None:
    """Print the remarks of the audit of the calibration set on stderr."""
    for finding in findings:
        print(f"calibration: {finding}", file=sys.stderr)
