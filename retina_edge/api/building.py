"""``retina_edge.api.build``: a checkpoint or a deployable ONNX becomes a TensorRT engine with its passport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.builder import BuildRequest, build_engine
from engines.tensorrt.passport import Passport
from retina_edge.api.accuracy import AccuracyOptions
from retina_edge.api.calibration import CalibrationOptions
from retina_edge.api.engine_source import EngineSource
from retina_edge.api.progress import Progress, no_progress


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
    options = options or BuildOptions()
    source = EngineSource.open(
        Path(model), options, calibration=calibration, accuracy=accuracy, verify=verify, progress=progress
    )
    request = BuildRequest.of(options, source.inputs(), source=str(model))
    if not force and (passport := request.current(engine)) is not None:
        return BuildResult(Path(engine), passport, False, source.conversion.findings)
    content, verified = source.network(progress)
    backend = request.backend.name
    report = build_engine(
        content,
        engine,
        request=request,
        progress=lambda done, step: progress(f"{backend}: {step.lower()}", done, 1.0),
        verified=verified,
        force=True,
    )
    return BuildResult(report.engine, report.passport, report.built, source.conversion.findings)
