"""``retina_edge.api.build``: a checkpoint or a deployable ONNX becomes a TensorRT engine with its passport."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import __version__
from engines.core.errors import BuildError, ModelFileError
from engines.core.letterbox import BgrImage
from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.builder import BuildRequest, build_engine
from engines.tensorrt.passport import Passport, sha256
from retina_edge.api.accuracy import AccuracyOptions, accuracy_budget
from retina_edge.api.calibration import CalibrationOptions, load_calibration
from retina_edge.api.progress import Progress, no_progress
from retina_edge.api.verification_images import read_images, sample_images

if TYPE_CHECKING:
    from export.precision.accuracy_budget import AccuracyBudget
    from export.precision.conversion import Calibration, Drift
    from export.verify import Agreement


@dataclass(frozen=True)
class BuildResult:
    """What a build came to.

    Attributes:
        engine: the engine file.
        passport: its passport.
        built: False if the same engine, of the same inputs and options, was already there.
        findings: remarks of the audit of the calibration set.
    """

    engine: Path
    passport: Passport
    built: bool
    findings: tuple[str, ...]


def build(
    model: Path | str,
    engine: Path | str,
    options: BuildOptions | None = None,
    *,
    calibration: CalibrationOptions | None = None,
    accuracy: AccuracyOptions | None = None,
    verify: Sequence[Path] = (),
    force: bool = False,
    progress: Progress = no_progress,
) -> BuildResult:
    """Build an engine, or find that the same engine is already there.

    Args:
        model: a checkpoint of ``train`` or ``convert``, or an ONNX of ``export``.
        engine: the engine to write, with its passport beside it. It is replaced at the very end, or not at all.
        options: what to build.
        calibration: images for INT8, if the model is not INT8 yet.
        accuracy: how much accuracy FP16 or INT8 may cost; None measures nothing.
        verify: image files and folders; the network that goes into the engine is compared with FP32 on them.
        force: build even if the same engine is there.
        progress: told what is being done.

    Returns:
        The engine, its passport, the remarks on the calibration set, and whether it was built now.

    Raises:
        ModelFileError: if the model is missing, corrupt or foreign.
        ContractError: for options that contradict each other or the model.
        ExportError: if the model cannot be converted, or is outside the accuracy budget.
        BuildError: if TensorRT refuses the network, or builds another precision.
        DataError, SourceError: if images or annotations cannot be used.
        MissingDependencyError, DeviceError: if nothing on this machine can build it.
    """
    from engines.onnx.deployable import batch_of, contract_of, read_deployable  # needs onnx
    from engines.tensorrt.engine_network import check_batch

    options, model = options or BuildOptions(), Path(model)
    precision, source_precision = options.precision, _precision_of(model)
    progress("auditing the calibration images", None, None)
    images_of_int8 = load_calibration(
        calibration,
        precision=precision,
        source_precision=source_precision,
        layout="tensorrt",
        progress=lambda done, count: progress("calibrating", done, count),
    )
    budget = accuracy_budget(accuracy, precision=precision, source_precision=source_precision, progress=progress)
    frames = read_images(verify) if verify else []
    inputs = _inputs(model, images_of_int8, frames, budget)
    request = BuildRequest.of(options, inputs, source=str(model))
    findings = images_of_int8.images.findings if images_of_int8 else ()
    if not force and (passport := request.current(engine)) is not None:
        return BuildResult(Path(engine), passport, False, findings)

    content, verified = model.read_bytes(), None
    if model.suffix == ".pt":
        progress("exporting and verifying", None, None)
        content, verified = _export(model, options, frames)
    deployable = read_deployable(content)
    contract = contract_of(deployable)
    if contract.precision != precision:
        check_batch(batch_of(deployable), options)  # before minutes of calibration and measurement
        progress(f"converting to {precision}", None, None)
        from export.precision.conversion import convert

        converted, drift = convert(
            deployable,
            precision,
            images=frames or sample_images(contract.input_size),
            calibration=images_of_int8,
            budget=budget,
        )
        content, verified = converted.SerializeToString(), _drift_record(drift)
    elif frames and verified is None:
        raise BuildError(
            f"verify: {model} goes into the engine as it is, in {contract.precision}, so there is nothing to compare "
            "it with; leave --verify out, or build from the checkpoint or an fp32 ONNX"
        )
    backend = request.backend.name
    report = build_engine(
        content,
        engine,
        request=request,
        progress=lambda done, step: progress(f"{backend}: {step.lower()}", done, 1.0),
        verified=verified,
        force=True,
    )
    return BuildResult(report.engine, report.passport, report.built, findings)


def _precision_of(path: Path) -> str:
    """Return the precision of a model file: what the contract of an ONNX says; fp32 for a checkpoint.

    Raises:
        ModelFileError: if there is no such file, or it is of another kind or foreign.
    """
    if path.suffix not in (".pt", ".onnx"):
        raise ModelFileError(f"{path}: expected a model ending in .pt or .onnx, got {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a model, found no file; make one with retina-edge train")
    if path.suffix == ".pt":
        return "fp32"
    from engines.onnx.deployable import contract_of, read_deployable  # needs onnx

    try:
        return contract_of(read_deployable(path.read_bytes())).precision
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _inputs(
    model: Path, calibration: Calibration | None, frames: Sequence[BgrImage], budget: AccuracyBudget | None
) -> dict[str, str]:
    """Return everything that the network of an engine depends on, as names and digests.

    The same inputs with the same options make the same engine, so it need not be built again.
    """
    inputs = {"model": sha256(model), "retina-edge": __version__}
    if calibration is not None:
        inputs["calibration"] = calibration.images.digest
        inputs["calibrator"] = calibration.chosen
    if frames:
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(repr(frame.shape).encode() + frame.tobytes())
        inputs["verified on"] = digest.hexdigest()
    if budget is not None:
        inputs["accuracy budget"] = f"{budget.points:g}{'' if budget.fallback else ', no fallback'}"
        inputs["measured on"] = f"{budget.data['annotations_sha256']} {budget.data['images_sha256']}"
    return inputs


def _export(path: Path, options: BuildOptions, frames: Sequence[BgrImage]) -> tuple[bytes, dict[str, Any]]:
    """Return the FP32 ONNX of a checkpoint, and its agreement with torch for the passport."""
    from export.torch_export import export_onnx
    from retina_edge.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    images = frames or sample_images(checkpoint.contract.input_size)
    batch = options.batch if options.max_batch is None else None
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model.onnx"
        report = export_onnx(checkpoint.build_model(), checkpoint.contract, output, batch=batch, images=images)
        return output.read_bytes(), _agreement_record(report.agreement)


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
