"""The calibration set of an INT8 model, and how its images are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engines.core.contract import BIT_DEPTH
from engines.core.errors import ContractError, DataError, SourceError
from engines.core.option_checks import check_choice, check_integer
from export.precision.calibration import CALIBRATORS, DEFAULT_IMAGES, MIN_CALIBRATION_IMAGES, audit
from retina_edge.data.load import listed_images
from retina_edge.data.yolo import is_yolo_file
from retina_edge.imaging.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.system.folders import cache_folder

if TYPE_CHECKING:
    from export.precision.conversion import Calibration


@dataclass(frozen=True)
class CalibrationOptions:
    """The images and the calibrator for an INT8 model.

    Attributes:
        images: folder of images like those of the camera, or a COCO file or YOLO ``data.yaml`` that lists such images.
        count: number of images to use, spread evenly over all images.
        calibrator: ``minmax``, ``percentile``, ``entropy`` or ``mse``; None for the default of the layout.
        cache: folder that keeps measured ranges for the next conversion with the same weights, images and settings;
            None to keep no ranges.

    Raises:
        ContractError: if an option is out of range.

    Examples:
        >>> options = CalibrationOptions("images", count=256, calibrator="entropy")
    """

    images: Path | str
    count: int = DEFAULT_IMAGES
    calibrator: str | None = None
    cache: Path | str | None = field(default_factory=lambda: cache_folder("calibration"))

    def __post_init__(self) -> None:
        check_integer("count", self.count, MIN_CALIBRATION_IMAGES)
        if self.calibrator is not None:
            check_choice("calibrator", self.calibrator, CALIBRATORS)

    @classmethod
    def of(cls, value: CalibrationOptions | Path | str | None) -> CalibrationOptions | None:
        """Return options for a path, which stands for the images; return anything else unchanged.

        Examples:
            >>> CalibrationOptions.of("images").images
            'images'
        """
        return cls(value) if isinstance(value, Path | str) else value


def load_calibration(
    options: CalibrationOptions | None,
    *,
    precision: str,
    source_precision: str,
    layout: str,
    bit_depth: int = BIT_DEPTH,
    progress: Callable[[int, int], None],
) -> Calibration | None:
    """Audit the calibration images for a conversion to INT8; return None for any other precision.

    Args:
        options: the images and the calibrator.
        precision: precision of the model to make.
        source_precision: precision of the model that is converted.
        layout: ``tensorrt`` or ``cpu``.
        bit_depth: bits that image files of 16 bits use.
        progress: called during calibration with the number of images done and their total.

    Raises:
        ContractError: for INT8 without images, or for images that are not needed.
        DataError: if too few of the images can be used.
        SourceError: if the path is neither a folder nor a list of images.

    Examples:
        >>> options = CalibrationOptions("tests/data/treecrowns/images", cache=None)
        >>> calibration = load_calibration(
        ...     options, precision="int8", source_precision="fp32", layout="cpu", progress=lambda done, count: None
        ... )
        >>> len(calibration.images.paths), calibration.chosen
        (16, 'mse')
    """
    if precision != "int8" or source_precision == "int8":
        if options is not None:
            reason = f"got precision {precision}" if source_precision != "int8" else "got a model that is int8 already"
            raise ContractError(f"calibration: expected a conversion to int8, {reason}; leave it out")
        return None
    if options is None:
        raise ContractError("calibration: expected images for int8, got none; give a folder of images or a COCO file")
    from export.precision.conversion import Calibration  # needs onnx

    images = audit(_image_files(Path(options.images)), partial(read_image, bit_depth=bit_depth), count=options.count)
    cache = None if options.cache is None else Path(options.cache)
    return Calibration(images, layout, options.calibrator, cache, progress)


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise DataError(
                f"{path}: expected images to calibrate with, found none; give a folder that contains images"
            )
        return files
    if path.suffix.lower() != ".json" and not is_yolo_file(path):
        raise SourceError(
            f"{path}: expected a folder of images, a COCO file ending in .json, or the data.yaml or obj.data of a YOLO "
            "data set, found none of them"
        )
    return listed_images(path)
