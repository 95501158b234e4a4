"""The data sets of a training run: found from one path if necessary, read and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.core.errors import DataError
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.data.locate import VAL_FILES, find_annotations, find_images, find_training_file, hold_out
from retina_edge.system.output_file import Input


@dataclass(frozen=True)
class TrainingData:
    """The data sets to train on and to validate on.

    Attributes:
        train: path of the COCO annotations to train on, or of a folder with ``train.json`` and images.
        images: folder of the training images; None to look for it near the annotations.
        val: path of the COCO annotations to validate on; None for ``val.json`` in a folder, or else for a fifth of the
            training images, which is then not learned.
        val_images: folder of the validation images; None for ``images``, or near the annotations.
        skip_invalid: skip boxes that have no area or lie outside their image, instead of raising an error.

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

    def inputs(self) -> list[Input]:
        """Return the files that are read, for ``check_output``."""
        return [("annotations", path) for path in (self.train, self.val) if path is not None]

    def load(self, on_message: Callable[[str], None]) -> tuple[CocoDataset, CocoDataset]:
        """Read both data sets.

        Args:
            on_message: called with a line of text for the user about what was decided or skipped.

        Raises:
            DataError: if a file or folder is missing or damaged, or the validation set has a category that the training
                set lacks.
        """
        annotations = find_training_file(Path(self.train))
        train = self._read(annotations, self.images, on_message)
        val_file = Path(self.val) if self.val is not None else None
        if val_file is None and Path(self.train).is_dir():
            val_file = find_annotations(Path(self.train), VAL_FILES)
        if val_file is None:
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
        val = self._read(val_file, self.val_images or self.images, on_message)
        if not any(len(image.boxes) for image in val.images):
            raise DataError(f"{val_file}: expected objects to validate on, found none; add annotations, or omit --val")
        if unknown := set(val.class_names) - set(train.class_names):
            raise DataError(
                f"{val_file}: expected only categories of {annotations}, got also "
                f"{', '.join(sorted(unknown))}; remove them, or add them to the training set"
            )
        return train, val

    def _read(self, path: Path, images: Path | str | None, on_message: Callable[[str], None]) -> CocoDataset:
        data = load_coco(path, images or find_images(path), skip_invalid=self.skip_invalid)
        if data.skipped:
            on_message(f"{path.name}: {len(data.skipped)} invalid boxes skipped")
        return data
