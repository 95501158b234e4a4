"""What an engine is built from: a checkpoint or a deployable ONNX, brought to the precision asked for."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engines.build_options import BuildOptions
from engines.contract import DetectorContract
from engines.errors import BuildError, ModelFileError
from engines.graph import batch_of, contract_of, read_deployable
from engines.passport import sha256
from retina_edge import __version__, accuracy_arguments
from retina_edge.verification_images import windows_of_forest

if TYPE_CHECKING:
    from export.accuracy_budget import AccuracyBudget
    from export.precision import Calibration, Drift
    from export.verify import Agreement

Images = Sequence[npt.NDArray[np.uint8]]


def precision_of(path: Path) -> str:
    """Precision of a model file: of an ONNX as its contract says, of a checkpoint fp32.

    Raises:
        ModelFileError: there is no such file, of another kind, or not ours.
    """
    if path.suffix not in (".pt", ".onnx"):
        raise ModelFileError(f"{path}: expected a model ending in .pt or .onnx, got {path.suffix or 'no ending'!r}")
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a model, found no file; make one with retina-edge train")
    return "fp32" if path.suffix == ".pt" else _read(path).precision


def _read(path: Path) -> DetectorContract:
    try:
        return contract_of(read_deployable(path.read_bytes()))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


@dataclass(frozen=True)
class EngineSource:
    """A model file and what is to become of it before TensorRT sees it.

    Attributes:
        path: a checkpoint of retina-edge train, or an ONNX of retina-edge export.
        options: of the engine.
        calibration: for INT8.
        images: frames to verify with; none for windows of the forest that comes along.
        budget: accuracy that the precision may cost; None measures none.
    """

    path: Path
    options: BuildOptions
    calibration: Calibration | None
    images: Images = ()
    budget: AccuracyBudget | None = None

    def inputs(self) -> dict[str, str]:
        """Everything the engine's ONNX depends on, as names and digests."""
        inputs = {"model": sha256(self.path), "retina-edge": __version__}
        if self.calibration is not None:
            inputs["calibration"] = self.calibration.images.digest
            inputs["calibrator"] = self.calibration.chosen
        if self.images:
            digest = hashlib.sha256()
            for image in self.images:
                digest.update(repr(image.shape).encode() + image.tobytes())
            inputs["verified on"] = digest.hexdigest()
        if self.budget is not None:
            inputs |= accuracy_arguments.inputs(self.budget)
        return inputs

    def deployable(self, tell: Callable[[str], None]) -> tuple[bytes, dict[str, Any] | None]:
        """The ONNX to build from, and what was compared.

        Args:
            tell: told what is being done.

        Raises:
            ExportError: the model cannot be brought to the precision.
            ModelFileError: it is damaged.
            BuildError: images to verify with, and nothing to compare.
        """
        if self.path.suffix == ".onnx":
            content, verified = self.path.read_bytes(), None
        else:
            tell("exporting and verifying")
            content, verified = self._export()
        model = read_deployable(content)
        contract = contract_of(model)
        if contract.precision == self.options.precision:
            if self.images and verified is None:
                raise BuildError(
                    f"verify: {self.path} goes into the engine as it is, in {contract.precision}, so there is nothing "
                    "to compare it with; leave --verify out, or build from the checkpoint or an fp32 ONNX"
                )
            return content, verified
        from engines.engine_network import check_batch
        from export.precision import convert

        check_batch(batch_of(model), self.options)  # before minutes of calibrating and measuring
        tell(f"converting to {self.options.precision}")
        images = self.images or windows_of_forest(contract.input_size)
        converted, drift = convert(
            model, self.options.precision, images=images, calibration=self.calibration, budget=self.budget
        )
        return converted.SerializeToString(), _against_fp32(drift)

    def _export(self) -> tuple[bytes, dict[str, Any]]:
        from export.deployable import export_onnx
        from retina_edge.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(self.path)
        images = self.images or windows_of_forest(checkpoint.contract.input_size)
        batch = self.options.batch if self.options.max_batch is None else None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            report = export_onnx(checkpoint.build_model(), checkpoint.contract, path, batch=batch, images=images)
            return path.read_bytes(), _against_torch(report.agreement)


def _against_torch(agreement: Agreement) -> dict[str, Any]:
    """As the passport keeps it."""
    return {
        "compared with": "torch",
        "images": agreement.images,
        "detections": agreement.detections,
        "greatest difference of logits": agreement.logits,
        "greatest difference of deltas": agreement.deltas,
    }


def _against_fp32(drift: Drift) -> dict[str, Any]:
    """As the passport keeps it."""
    name, decibels = drift.worst
    return {
        "compared with": "fp32, both on ONNX Runtime",
        "images": drift.images,
        "detections": drift.detections,
        "worst head": name,
        "signal to noise dB": decibels,
    }
