"""The options of INT8 that ``export`` and ``build`` share, and the calibration set they describe."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engines.contract import CPU, TENSORRT
from engines.errors import ContractError, DataError, SourceError
from export.calibration import CALIBRATORS, DEFAULT_CALIBRATORS, DEFAULT_IMAGES, audit
from retina_edge import cli
from retina_edge.image_file import IMAGE_SUFFIXES, read_image

if TYPE_CHECKING:
    from export.precision import Calibration


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR|COCO.json",
        help="for int8: images as the camera will see them, a folder or those that a COCO file lists beside itself",
    )
    parser.add_argument(
        "--calibration-images",
        type=cli.positive,
        default=DEFAULT_IMAGES,
        metavar="N",
        help=f"how many of them, evenly spread (default: {DEFAULT_IMAGES})",
    )
    parser.add_argument(
        "--calibrator",
        choices=CALIBRATORS,
        help=f"how ranges are chosen (default: for TensorRT {DEFAULT_CALIBRATORS[TENSORRT]}, for a CPU "
        f"{DEFAULT_CALIBRATORS[CPU]})",
    )
    parser.add_argument(
        "--calibration-cache",
        type=Path,
        default=default_cache(),
        metavar="DIR",
        help="keeps ranges by a digest of weights, images and settings (default: %(default)s)",
    )


def default_cache() -> Path:
    """``retina_edge/calibration`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retina_edge" / "calibration"


def calibration(
    arguments: argparse.Namespace, *, made_of: str, layout: str, progress: Callable[[int, int], None]
) -> Calibration | None:
    """The audited images and how to use them, to make INT8 of something else; None where that is not asked.

    Args:
        made_of: precision of the model given.
        layout: ``tensorrt`` or ``cpu``.
        progress: called with the images done and their number.

    Raises:
        ContractError: INT8 without images, or images that nobody needs.
        DataError: the folder or file holds too few images that can be used.
    """
    if arguments.precision != "int8" or made_of == "int8":
        if arguments.calibration is not None:
            why = f"got --precision {arguments.precision}" if made_of != "int8" else "and the model is int8 already"
            raise ContractError(f"--calibration is for making int8, {why}; leave it out")
        return None
    if arguments.calibration is None:
        raise ContractError("int8 needs images to calibrate with: give --calibration DIR or COCO.json")
    from export.precision import Calibration  # needs onnx

    images = audit(_files(arguments.calibration), read_image, count=arguments.calibration_images)
    return Calibration(images, layout, arguments.calibrator, arguments.calibration_cache, progress)


def print_findings(calibration: Calibration) -> None:
    """What the audit of the calibration set had to say, on stderr."""
    for finding in calibration.images.findings:
        print(f"calibration: {finding}", file=sys.stderr)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
        if not found:
            raise DataError(f"{path}: expected images to calibrate with, found none")
        return found
    if path.suffix.lower() != ".json":
        raise SourceError(f"{path}: expected a folder of images or a COCO file ending in .json")
    try:
        names = [record["file_name"] for record in json.loads(path.read_text(encoding="utf-8"))["images"]]
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected a COCO file with images and their file_name ({error!r})") from error
    return [_beside(path, name) for name in names]


def _beside(path: Path, name: str) -> Path:
    """An image as a COCO file names it: from its own folder, or from the folder ``images`` in it."""
    for file in (path.parent / name, path.parent / "images" / name):
        if file.is_file():
            return file
    raise DataError(f"{path}: expected its image {name} beside it or in images/, found none")
