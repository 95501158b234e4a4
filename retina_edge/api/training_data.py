"""The data sets of a training run: found from one path if necessary, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.contract import check_bit_depth
from engines.core.errors import DataError
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.hold_out import hold_out
from retina_edge.data.load import TRAIN, VAL, is_coco_file, load_dataset, load_part
from retina_edge.system.output_file import Input


@dataclass(frozen=True)
class TrainingData:
    """The data sets to train on and to validate on.

    Attributes:
        train: data set to train on: a COCO file, a YOLO ``data.yaml`` or ``obj.data``, or the folder of a data set
            of COCO, YOLO or Pascal VOC.
        images: folder of the training images; None to look for it near the annotations.
        val: data set to validate on, as ``train``; None for the part of ``train`` that is meant for it, or else for a
            fifth of the training images, which is then not learned.
        val_images: folder of the validation images; None for ``images``, or near the annotations.
        skip_invalid: leave out images that cannot be used, and skip boxes that have no area or lie outside their image,
            instead of raising an error.
        bit_depth: bits that image files of 16 bits use, 9 to 16; None for those of the checkpoint that a run starts
            from, else 16. The model remembers them.

    Raises:
        ContractError: if the bit depth is out of range.

    Examples:
        >>> data = TrainingData("train.json", "train_images", "val.json", "val_images")
        >>> train, val = TrainingData("tests/data/treecrowns/val.json").load(print)
        no validation set was given: 3 of 16 images are held out of training to validate on
    """

    train: Path | str
    images: Path | str | None = None
    val: Path | str | None = None
    val_images: Path | str | None = None
    skip_invalid: bool = False
    bit_depth: int | None = None

    def __post_init__(self) -> None:
        if self.bit_depth is not None:
            check_bit_depth(self.bit_depth)

    def inputs(self) -> list[Input]:
        """Return the files that are read, for ``check_output``."""
        return [("annotations", path) for path in (self.train, self.val) if path is not None]

    def load(self, on_message: Callable[[str], None]) -> tuple[DetectionDataset, DetectionDataset]:
        """Read both data sets.

        Args:
            on_message: called with a line of text for the user about what was decided or skipped.

        Raises:
            DataError: if a file, folder or image is missing or damaged, a part has no object, or the validation set has
                a category that the training set lacks.
        """
        checks: dict[str, Any] = {
            "skip_invalid": self.skip_invalid,
            "bit_depth": self.bit_depth,
            "on_message": on_message,
        }
        train = load_dataset(self.train, self.images, part=TRAIN, **checks)
        if not train.has_objects():
            raise DataError(
                f"{train.annotations}: expected boxes to learn from, found none outside of crowds; add annotations"
            )
        validation = self._validation(checks)
        for remark in (*train.remarks, *(validation.remarks if validation else ())):
            on_message(remark)
        if validation is None:
            kept, val = hold_out(train)
            if kept is val:
                on_message(
                    f"no validation set was given, and {len(train)} images are too few to hold some out: the model is "
                    "validated on the images that it learns, so AP says nothing about other images"
                )
            else:
                on_message(
                    f"no validation set was given: {len(val)} of {len(train)} images are held out of training to "
                    "validate on"
                )
            return kept, val
        name = validation.annotations
        if not validation.has_objects():
            raise DataError(f"{name}: expected objects to validate on, found none; add annotations, or omit --val")
        if unknown := set(validation.class_names) - set(train.class_names):
            raise DataError(
                f"{name}: expected only categories of {train.annotations}, got also {', '.join(sorted(unknown))}; "
                "remove them, or add them to the training set"
            )
        return train, validation

    def _validation(self, checks: Mapping[str, Any]) -> DetectionDataset | None:
        """Return the data set to validate on; None if there is none."""
        if self.val is None:
            single = is_coco_file(Path(self.train))
            return None if single else load_part(self.train, self.val_images, part=VAL, **checks)
        validation = load_part(self.val, self.val_images or self.images, part=VAL, whole=True, **checks)
        if validation is None:
            raise DataError(f"{self.val}: expected a data set to validate on, found only a part to learn; omit --val")
        return validation
