"""The implementation of ``retina_edge.api.build``, from a checkpoint or a deployable ONNX to a TensorRT engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engines.core.errors import BuildError
from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.build_request import BuildRequest
from engines.tensorrt.builder import build_engine
from engines.tensorrt.passport import Passport, passport_path
from retina_edge.api.accuracy import AccuracyOptions
from retina_edge.api.calibration import CalibrationOptions
from retina_edge.api.conversion import input_files
from retina_edge.api.engine_check import NOT_RUN, EngineCheck, find_fp16, is_checked, slow_int8, why_not_here
from retina_edge.api.engine_source import EngineSource
from retina_edge.api.progress import Progress, no_progress
from retina_edge.api.verification_images import ImagePaths
from retina_edge.system.output_file import check_output


@dataclass(frozen=True)
class BuildResult:
    """The result of a build.

    Attributes:
        engine: path of the engine.
        passport: passport of the engine.
        built: False if the same engine, built from the same inputs and options, was already there.
        findings: remarks of the audit of the calibration set, and on the speed of INT8.
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
    calibration: CalibrationOptions | Path | str | None = None,
    accuracy: AccuracyOptions | None = None,
    verify: ImagePaths = (),
    check: bool = True,
    compare_fp16: bool = False,
    force: bool = False,
    progress: Progress = no_progress,
) -> BuildResult:
    """Build an engine, unless the same engine is already there, and was run if this machine can run it.

    Args:
        model: a checkpoint that ``train`` or ``convert`` wrote, or an ONNX that ``export`` wrote.
        engine: path of the engine to write, which ends in ``.engine``; its passport is written beside it. An existing
            engine is replaced at the very end, or not at all.
        options: options of the engine.
        calibration: images for INT8, if the model is not INT8 yet; a path stands for ``CalibrationOptions(path)``.
        accuracy: accuracy that FP16 or INT8 may cost; None to measure nothing.
        verify: image files and folders, one path or several, on which the network that goes into the engine is
            compared with FP32, and the engine with ONNX Runtime; by default, parts of the sample image.
        check: run the engine, if this machine can, and compare it with ONNX Runtime.
        compare_fp16: build an FP16 engine, too, to tell how much faster INT8 is; needs ``check`` and a model that is
            not INT8 yet. Without it, an FP16 engine of the same model beside the INT8 engine is taken.
        force: build even if the same engine is there.
        progress: callback that reports the current step.

    Returns:
        The engine, its passport and the remarks on the calibration set.

    Raises:
        ModelFileError: if the file is missing, corrupt, or not a model of retina_edge.
        ContractError: for options that contradict each other or the model.
        ExportError: if the model cannot be converted, or is outside the accuracy budget.
        BuildError: if TensorRT refuses the network, or builds it in another precision than requested, or if the engine
            finds other things than ONNX Runtime.
        DataError, SourceError: if images or annotations cannot be used.
        SinkError: if the engine cannot be written to this path, or would overwrite an input.
        MissingDependencyError, DeviceError: if this machine cannot build the engine.
    """
    options = options or BuildOptions()
    calibration = CalibrationOptions.of(calibration)
    inputs = [("model", model), *input_files(calibration, accuracy)]
    check_output("engine", engine, suffix=".engine", inputs=inputs)
    check_output("engine", passport_path(engine), inputs=inputs)
    if options.timing_cache is not None:
        check_output("timing_cache", options.timing_cache, inputs=inputs)
    source = EngineSource.open(
        Path(model), options, calibration=calibration, accuracy=accuracy, verify=verify, progress=progress
    )
    if compare_fp16 and (options.precision != "int8" or source.precision == "int8" or not check):
        raise BuildError(
            "compare_fp16: expected an INT8 engine of a checkpoint or an fp32 ONNX, and a check, which measures both "
            f"engines, got {options.precision} of a model in {source.precision}{'' if check else ' without a check'}; "
            "leave compare_fp16 out"
        )
    request = BuildRequest.of(options, source.inputs(), source=str(model))
    reason = why_not_here(request) if check else "not asked for"
    passport = None if force else request.current(engine)
    if passport is not None and (reason or is_checked(passport, compare_fp16=compare_fp16)):
        return BuildResult(Path(engine), passport, False, _findings(source, passport))
    content, verified = source.network(progress, checked=not reason)
    backend = request.backend.name
    with TemporaryDirectory() as folder:
        fp16 = None
        if options.precision == "int8" and not reason:
            fp16 = find_fp16(Path(engine), request)
            if compare_fp16 and fp16 is None:
                fp16 = Path(folder) / "fp16.engine"
                build(model, fp16, dataclasses.replace(options, precision="fp16"), check=False, progress=progress)

        def run_check(plan: Path, passport: Passport) -> Mapping[str, Any]:
            if reason:
                return {NOT_RUN: reason}
            progress("running the engine and ONNX Runtime", None, None)
            images = source.conversion.verification_images(passport.contract.input_size)
            return EngineCheck(content, images, request.backend, fp16)(plan, passport)

        report = build_engine(
            content,
            engine,
            request=request,
            progress=lambda done, step: progress(f"{backend}: {step.lower()}", done, 1.0),
            verified=verified,
            check=run_check,
            force=True,
        )
    return BuildResult(report.engine, report.passport, report.built, _findings(source, report.passport))


def _findings(source: EngineSource, passport: Passport) -> tuple[str, ...]:
    return (*source.conversion.findings, *filter(None, [slow_int8(passport.checked)]))
