"""The log of a training run: a CSV file beside the checkpoint, curves and pictures for TensorBoard, if installed."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.core.letterbox import BgrImage
from retina_edge.evaluation.coco_metrics import METRICS, Evaluation
from retina_edge.imaging.image_file import encode_image

# Space for the log that must be free.
RESERVED_BYTES = 2**20
# Number of evaluations whose pictures TensorBoard gets, at most, and their JPEG quality, 0 to 100.
MAX_PICTURED, PICTURE_QUALITY = 100, 80
LOSSES = ("classification", "bbox_regression")
# Further losses of a run with a teacher; the last one only if the teacher has features to give.
DISTILLATION_LOSSES = ("distill_logits", "distill_boxes", "distill_features")
# AP of the weights without averaging, at the end of a run with EMA.
RAW_AP = "AP_raw"
COLUMNS = ("epoch", "step", "learning_rate", *LOSSES, "images_per_second", *METRICS, RAW_AP)


class TrainingLog:
    """A log that appends a row for each epoch to ``model.csv``, and scalars to ``model.tensorboard/``.

    Args:
        output: path of the checkpoint; the log is written beside it.
        step: number of steps already trained; if it is 0, an existing CSV file is overwritten.
        more_losses: names of losses beside ``LOSSES``, which get the last columns.
    """

    def __init__(self, output: Path, step: int, more_losses: Sequence[str] = ()) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        self._path = output.with_suffix(".csv")
        self._check_space()
        self._columns: Sequence[str] = (*COLUMNS, *more_losses)
        if step == 0 or not self._path.exists() or not self._path.stat().st_size:
            self._write_row("w", {name: name for name in self._columns})
        else:  # an older log lacks columns
            with self._path.open(newline="") as file:
                self._columns = next(csv.reader(file))
        self._writer: Any = None
        self._pictured = -1.0  # progress of the run at the last pictures
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        # TensorBoard then hides what an interrupted run wrote from that step on; the step itself is of the kept part.
        purged = step + 1 if step else 0
        self._writer = SummaryWriter(str(output.with_suffix(".tensorboard")), purge_step=purged)

    def write(
        self,
        epoch: int,
        step: int,
        learning_rate: float,
        losses: dict[str, float],
        result: Evaluation | None,
        raw: Evaluation | None = None,
    ) -> None:
        """Append the results of an epoch; without an evaluation, the columns of the metrics stay empty.

        Args:
            epoch: number of epochs trained.
            step: number of steps trained.
            learning_rate: learning rate of the next step.
            losses: mean losses of the epoch, and ``images_per_second``.
            result: evaluation after the epoch, or None.
            raw: evaluation of the weights without averaging, or None.
        """
        row: dict[str, Any] = {"epoch": epoch, "step": step, "learning_rate": f"{learning_rate:.3g}"}
        row.update({name: f"{value:.4f}" for name, value in losses.items()})
        if result:
            row.update({name: f"{value:.4f}" for name, value in result.metrics.items()})
        if raw:
            row[RAW_AP] = f"{raw.metrics['AP']:.4f}"
        self._check_space()
        self._write_row("a", row)
        if self._writer:
            for name in self._columns[2:]:
                if name in row:
                    self._writer.add_scalar(name, float(row[name]), step)
            self._writer.flush()

    def wants_pictures(self, progress: float) -> bool:
        """True if TensorBoard gets pictures now: at an evaluation, at most ``MAX_PICTURED`` times in a run.

        Args:
            progress: progress of the run, 0 to 1.
        """
        return self._writer is not None and progress >= min(1.0, self._pictured + 1 / MAX_PICTURED)

    def add_pictures(self, pictures: Mapping[str, BgrImage], step: int, progress: float) -> None:
        """Write pictures for TensorBoard, as JPEG, because those of ``add_image``, in PNG, are several times as large.

        Args:
            pictures: pictures by name, uint8 [height, width, 3], BGR.
            step: number of steps trained.
            progress: progress of the run, 0 to 1.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._pictured = progress
        values = [
            Summary.Value(
                tag=name,
                image=Summary.Image(
                    height=picture.shape[0],
                    width=picture.shape[1],
                    colorspace=3,
                    encoded_image_string=encode_image(picture, ".jpg", jpeg_quality=PICTURE_QUALITY),
                ),
            )
            for name, picture in pictures.items()
        ]
        self._check_space()
        self._writer.file_writer.add_summary(Summary(value=values), step)
        self._writer.flush()

    def _check_space(self) -> None:
        """Raise the error of a full disk here, because TensorBoard would raise it in a thread, with a traceback."""
        if shutil.disk_usage(self._path.parent).free < RESERVED_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _write_row(self, mode: str, row: dict[str, Any]) -> None:
        try:
            with self._path.open(mode, newline="") as file:
                csv.DictWriter(file, self._columns, extrasaction="ignore").writerow(row)
        except OSError as error:  # the error of a full disk does not name the file
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._writer:
            self._writer.close()
