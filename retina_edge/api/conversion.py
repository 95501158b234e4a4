"""The conversion of a model to another precision, which ``export`` and ``build`` share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engines.core.contract import BIT_DEPTH
from engines.core.letterbox import BgrImage
from retina_edge.api.accuracy import AccuracyOptions, accuracy_budget
from retina_edge.api.calibration import CalibrationOptions, load_calibration
from retina_edge.api.progress import Progress
from retina_edge.api.verification_images import ImagePaths, read_images, sample_images
from retina_edge.system.output_file import Input

if TYPE_CHECKING:
    from export.precision.accuracy_budget import AccuracyBudget
    from export.precision.conversion import Calibration
    from export.precision.drift import Drift


def input_files(calibration: CalibrationOptions | None, accuracy: AccuracyOptions | None) -> list[Input]:
    """Return the files that a conversion reads, for ``check_output``.

    Examples:
        >>> input_files(CalibrationOptions("train.json"), None)
        [('calibration set', 'train.json')]
    """
    files: list[Input] = []
    if calibration is not None:
        files.append(("calibration set", calibration.images))
    if accuracy is not None:
        files.append(("annotations", accuracy.annotations))
    return files


@dataclass(frozen=True)
class Conversion:
    """Everything that a conversion needs, read and checked before the work begins.

    Attributes:
        precision: precision of the model to make.
        calibration: calibration set and settings; None unless a model is converted to INT8.
        budget: the accuracy budget, with a function that measures AP; None to measure nothing.
        images: the user's images to verify with; empty to use parts of the sample image.

    Examples:
        >>> from retina_edge.api.progress import no_progress
        >>> options = {"layout": "cpu", "calibration": None, "accuracy": None, "images": (), "progress": no_progress}
        >>> conversion = Conversion.prepare("fp16", source_precision="fp32", **options)
        >>> [image.shape for image in conversion.verification_images((416, 736))]
        [(416, 736, 3), (416, 736, 3), (416, 736, 3), (416, 736, 3)]
    """

    precision: str
    calibration: Calibration | None
    budget: AccuracyBudget | None
    images: Sequence[BgrImage]

    @classmethod
    def prepare(
        cls,
        precision: str,
        *,
        source_precision: str,
        bit_depth: int = BIT_DEPTH,
        layout: str,
        calibration: CalibrationOptions | None,
        accuracy: AccuracyOptions | None,
        images: ImagePaths,
        progress: Progress,
    ) -> Conversion:
        """Read and check everything that the conversion needs.

        Args:
            precision: precision of the model to make.
            source_precision: precision of the model that is converted.
            bit_depth: bits that image files of 16 bits use, from the model's contract.
            layout: INT8 layout, ``cpu`` or ``tensorrt``.
            calibration: images for INT8.
            accuracy: accuracy that the conversion may cost; None to measure nothing.
            images: image files and folders to verify with.
            progress: callback that reports the current step, now and during the conversion.

        Raises:
            ContractError: for options that contradict each other or the model.
            DataError, SourceError: if images or annotations cannot be used.
        """
        return cls(
            precision,
            load_calibration(
                calibration,
                precision=precision,
                source_precision=source_precision,
                layout=layout,
                bit_depth=bit_depth,
                progress=lambda done, count: progress("calibrating", done, count),
            ),
            accuracy_budget(
                accuracy,
                precision=precision,
                source_precision=source_precision,
                bit_depth=bit_depth,
                progress=progress,
            ),
            read_images(images, bit_depth) if images else (),
        )

    @property
    def findings(self) -> tuple[str, ...]:
        """Remarks of the audit of the calibration set."""
        return self.calibration.images.findings if self.calibration else ()

    def verification_images(self, input_size: tuple[int, int]) -> Sequence[BgrImage]:
        """Return images to verify with, for a network's input of (height, width)."""
        return self.images or sample_images(input_size)

    def convert(self, fp32: bytes) -> tuple[bytes, Drift]:
        """Convert a deployable FP32 ONNX.

        Args:
            fp32: content of the ONNX file.

        Returns:
            Content of the converted ONNX file, and its drift from FP32.

        Raises:
            ExportError: if the model cannot be converted, or is outside the accuracy budget.
            ModelFileError: if the content is not a deployable ONNX.
        """
        from engines.onnx.deployable import contract_of, read_deployable  # needs onnx
        from export.precision.conversion import convert

        deployable = read_deployable(fp32)
        images = self.verification_images(contract_of(deployable).input_size)
        model, drift = convert(
            deployable, self.precision, images=images, calibration=self.calibration, budget=self.budget
        )
        return model.SerializeToString(), drift

    def inputs(self) -> dict[str, str]:
        """Return everything that the converted model depends on besides its source, as names and digests."""
        inputs = {}
        if self.calibration is not None:
            inputs["calibration"] = self.calibration.images.digest
            inputs["calibrator"] = self.calibration.chosen
        if self.images:
            digest = hashlib.sha256()
            for image in self.images:
                digest.update(repr(image.shape).encode() + image.tobytes())
            inputs["verified on"] = digest.hexdigest()
        if self.budget is not None:
            inputs["accuracy budget"] = f"{self.budget.points:g}{'' if self.budget.fallback else ', no fallback'}"
            inputs["measured on"] = f"{self.budget.data['annotations_sha256']} {self.budget.data['images_sha256']}"
        return inputs
