"""A checked data set: images and their boxes, whatever format they came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.core.contract import BIT_DEPTH
from engines.core.errors import DataError
from retina_edge.imaging.image_file import read_image


@dataclass(frozen=True, eq=False)
class LabeledImage:
    """One image and its boxes.

    Attributes:
        id: id of the image in the annotations: a number or a text.
        path: path of the image file.
        size: (height, width) of the image, pixels, upright as its EXIF orientation says.
        boxes: boxes of the objects without crowds, float32 [N, 4], xyxy, image pixels, clipped to the image.
        labels: labels of the boxes, int64 [N], indices into the data set's ``class_names``.
        crowds: boxes of the crowds, float32 [M, 4], format as ``boxes``. A crowd is a region of many objects that is
            background in training, and ignored in the evaluation.
        crowd_labels: labels of the crowds, int64 [M].
        truth: the same N objects and then the M crowds for the metric, float64 [N + M, 5]: x, y, width, height as the
            annotations say, not clipped, and the area, in pixels.
    """

    id: int | str
    path: Path
    size: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowds: npt.NDArray[np.float32]
    crowd_labels: npt.NDArray[np.int64]
    truth: npt.NDArray[np.float64]

    def read(self, bit_depth: int = BIT_DEPTH) -> npt.NDArray[np.uint8]:
        """Read the image file: BGR, uint8 [height, width, 3].

        Args:
            bit_depth: bits that a file of 16 bits uses; the upper 8 of them count.

        Raises:
            SourceError: if the file cannot be decoded, or is truncated.
            DataError: if the image does not have the size given in the annotations.
        """
        image = read_image(self.path, bit_depth)
        if image.shape[:2] != self.size:
            raise DataError(
                f"{self.path}: expected {self.size[1]}x{self.size[0]} pixels (width x height), as the annotations say, "
                f"got {image.shape[1]}x{image.shape[0]}; the boxes would be misplaced: correct the record or the image"
            )
        return image


@dataclass(frozen=True)
class DetectionDataset:
    """A checked data set.

    Attributes:
        annotations: path of the annotations: a COCO file, a YOLO ``data.yaml``, or a folder of Pascal VOC files.
        class_names: names of the classes; the index of a name is its label.
        category_ids: number of each class in the annotations, or 1, 2, ... if they use no numbers.
        images: all images, including images without boxes.
        files: the files that hold the annotations.
        skipped: number of boxes that were skipped because they are invalid.
        left_out: number of images that were left out because they cannot be used.
        remarks: lines for the user about what was left out.
    """

    annotations: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[LabeledImage, ...]
    files: tuple[Path, ...] = ()
    skipped: int = 0
    left_out: int = 0
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def has_objects(self) -> bool:
        """True if an image has an object outside of crowds."""
        return any(len(image.boxes) for image in self.images)
