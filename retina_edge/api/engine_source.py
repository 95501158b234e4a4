"""The model that an engine is built from, converted to the precision of the engine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import __version__
from engines.core.contract import TENSORRT
from engines.core.errors import BuildError, ModelFileError
from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.passport import sha256
from retina_edge.api.accuracy import AccuracyOptions
from retina_edge.api.calibration import CalibrationOptions
from retina_edge.api.conversion import Conversion
from retina_edge.api.progress import Progress
from retina_edge.api.verification_images import ImagePaths

if TYPE_CHECKING:
    from export.precision.drift import Drift
    from export.verify import Agreement


@dataclass(frozen=True)
class EngineSource:
    """A model file, and its conversion to the precision of the engine.

    Attributes:
        path: path of a checkpoint or a deployable ONNX.
        precision: precision of the model file; ``fp32`` for a checkpoint.
        options: options of the engine.
        conversion: the conversion to the precision of the engine.

    Examples:
        >>> from retina_edge.api.progress import no_progress
        >>> from retina_edge.assets import MODEL
        >>> nothing = {"calibration": None, "accuracy": None, "verify": ()}
        >>> source = EngineSource.open(MODEL, BuildOptions(precision="fp16"), progress=no_progress, **nothing)
        >>> source.precision, list(source.inputs())
        ('fp32', ['model', 'retina-edge'])
    """

    path: Path
    precision: str
    options: BuildOptions
    conversion: Conversion

    @classmethod
    def open(
        cls,
        path: Path,
        options: BuildOptions,
        *,
        calibration: CalibrationOptions | None,
        accuracy: AccuracyOptions | None,
        verify: ImagePaths,
        progress: Progress,
    ) -> EngineSource:
        """Check a model file and prepare its conversion. Arguments and errors are those of ``api.build``."""
        precision, bit_depth = _precision_and_depth(path)
        progress("reading images", None, None)
        conversion = Conversion.prepare(
            options.precision,
            source_precision=precision,
            bit_depth=bit_depth,
            layout=TENSORRT,
            calibration=calibration,
            accuracy=accuracy,
            images=verify,
            progress=progress,
        )
        return cls(path, precision, options, conversion)

    def inputs(self) -> dict[str, str]:
        """Return everything that the network of the engine depends on, as names and digests."""
        return {"model": sha256(self.path), "retina-edge": __version__, **self.conversion.inputs()}

    def network(self, progress: Progress, *, checked: bool) -> tuple[bytes, dict[str, Any] | None]:
        """Return the ONNX that goes into the engine, and the record of its verification for the passport.

        Args:
            progress: callback that reports the current step.
            checked: True if the engine itself will be run on the images.

        Raises:
            ExportError: if the model cannot be converted.
            ModelFileError: if the model is corrupt.
            BuildError: if there are images to verify with, but the model is not converted, so nothing can be compared.
        """
        content, verified = self.path.read_bytes(), None
        if self.path.suffix == ".pt":
            progress("exporting and verifying", None, None)
            content, verified = self._export()
        if self.precision != self.options.precision:
            from engines.onnx.deployable import batch_of, read_deployable  # needs onnx
            from engines.tensorrt.engine_network import check_batch

            check_batch(batch_of(read_deployable(content)), self.options)  # fail before minutes of calibration
            progress(f"converting to {self.options.precision}", None, None)
            content, drift = self.conversion.convert(content)
            return content, _drift_record(drift)
        if self.conversion.images and verified is None and not checked:
            raise BuildError(
                f"verify: expected a model to convert, got {self.path}, which goes into the engine unchanged, in "
                f"{self.precision}; leave verify out, or build from the checkpoint or an fp32 ONNX"
            )
        return content, verified

    def _export(self) -> tuple[bytes, dict[str, Any]]:
        """Return the FP32 ONNX of a checkpoint, and its agreement with torch for the passport."""
        from export.torch_export import export_onnx
        from retina_edge.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(self.path)
        images = self.conversion.verification_images(checkpoint.contract.input_size)
        batch = self.options.batch if self.options.max_batch is None else None
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "model.onnx"
            report = export_onnx(checkpoint.build_model(), checkpoint.contract, output, batch=batch, images=images)
            return output.read_bytes(), _agreement_record(report.agreement)


def _precision_and_depth(path: Path) -> tuple[str, int]:
    """Return the precision of a model file, ``fp32`` for a checkpoint, and its bit depth.

    Raises:
        ModelFileError: if the file does not exist, or is not a model of retina_edge.
    """
    if path.suffix not in (".pt", ".onnx"):
        raise ModelFileError(f"{path}: expected a model ending in .pt or .onnx, got {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a model, found no file; make one with retina-edge train")
    if path.suffix == ".pt":
        from retina_edge.model.checkpoint import load_checkpoint

        return "fp32", load_checkpoint(path).contract.bit_depth
    from engines.onnx.deployable import contract_of, read_deployable  # needs onnx

    try:
        contract = contract_of(read_deployable(path.read_bytes()))
        return contract.precision, contract.bit_depth
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _agreement_record(agreement: Agreement) -> dict[str, Any]:
    """Return the comparison with torch, as the passport stores it."""
    return {
        "compared with": "torch",
        "images": agreement.images,
        "detections": agreement.detections,
        "greatest difference of logits": agreement.logits,
        "greatest difference of deltas": agreement.deltas,
    }


def _drift_record(drift: Drift) -> dict[str, Any]:
    """Return the comparison with FP32, as the passport stores it."""
    name, decibels = drift.worst
    return {
        "compared with": "fp32, both on ONNX Runtime",
        "images": drift.images,
        "detections": drift.detections,
        "worst head": name,
        "signal to noise dB": decibels,
    }
