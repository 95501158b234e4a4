"""The implementation of ``retina_edge.api.export``, from a checkpoint to a deployable ONNX."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.core.atomic_file import atomic_file
from engines.core.contract import CPU, LAYOUTS, PRECISIONS, DetectorContract, check_bit_depth, check_input_size
from engines.core.errors import ContractError
from engines.core.option_checks import check_choice, check_integer, check_number
from retina_edge.api.accuracy import AccuracyOptions
from retina_edge.api.calibration import CalibrationOptions
from retina_edge.api.conversion import Conversion, input_files
from retina_edge.api.progress import Progress, no_progress
from retina_edge.api.verification_images import ImagePaths
from retina_edge.system.output_file import check_output

if TYPE_CHECKING:
    from export.precision.drift import Drift
    from export.verify import Agreement


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        layout: for INT8: ``cpu`` for ONNX Runtime (the default), or ``tensorrt``.
        batch: images in a batch; None for any number.
        input_size: (height, width) of the input, pixels, multiples of 32; None for the checkpoint's.
        bit_depth: bits that image files of 16 bits use, 9 to 16; None for the checkpoint's value.
        score_threshold, iou_threshold, agnostic, top_k, max_detections: post-processing; None for the checkpoint's.
        half_weights: for FP32: store the weights in float16, which halves the file.

    Raises:
        ContractError: if an option is out of range, or belongs to another precision.

    Examples:
        >>> options = ExportOptions(precision="int8", layout="tensorrt", input_size=(416, 736))
        >>> ExportOptions(precision="fp16", half_weights=True)
        Traceback (most recent call last):
            ...
        engines.core.errors.ContractError: half_weights: expected precision fp32, got fp16; leave it out
    """

    precision: str = "fp32"
    layout: str | None = None
    batch: int | None = 1
    input_size: tuple[int, int] | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    agnostic: bool | None = None
    top_k: int | None = None
    max_detections: int | None = None
    bit_depth: int | None = None
    half_weights: bool = False

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, PRECISIONS)
        if self.layout is not None:
            check_choice("layout", self.layout, LAYOUTS)
        for name in ("batch", "top_k", "max_detections"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        if self.input_size is not None:
            check_input_size(self.input_size)
        if self.bit_depth is not None:
            check_bit_depth(self.bit_depth)
        if self.score_threshold is not None:
            check_number("score_threshold", self.score_threshold, "0 <= value < 1", lambda value: 0 <= value < 1)
        if self.iou_threshold is not None:
            check_number("iou_threshold", self.iou_threshold, "0 <= value <= 1", lambda value: 0 <= value <= 1)
        for option, given, precision in (
            ("half_weights", self.half_weights, "fp32"),
            ("layout", self.layout is not None, "int8"),
        ):
            if given and self.precision != precision:
                raise ContractError(f"{option}: expected precision {precision}, got {self.precision}; leave it out")


@dataclass(frozen=True)
class ExportResult:
    """The result of an export: the file, and the differences that its verification found.

    Attributes:
        path: path of the ONNX file.
        size: size of the file, bytes.
        batch: images in a batch; None for any number.
        contract: contract of the model.
        agreement: largest differences from torch and from the specification.
        drift: drift from FP32; None for FP32.
        findings: remarks of the audit of the calibration set.
    """

    path: Path
    size: int
    batch: int | None
    contract: DetectorContract
    agreement: Agreement
    drift: Drift | None
    findings: tuple[str, ...]


def export(
    checkpoint: Path | str,
    output: Path | str,
    options: ExportOptions | None = None,
    *,
    calibration: CalibrationOptions | Path | str | None = None,
    accuracy: AccuracyOptions | None = None,
    images: ImagePaths = (),
    progress: Progress = no_progress,
) -> ExportResult:
    """Export a checkpoint to one ONNX file that is the whole detector.

    Args:
        checkpoint: path of a checkpoint that ``train`` or ``convert`` wrote.
        output: path of the ONNX file, which ends in ``.onnx``. An existing file is replaced at the very end, or not
            at all.
        options: options of the export.
        calibration: images for INT8; a path stands for ``CalibrationOptions(path)``.
        accuracy: accuracy that FP16 or INT8 may cost; None to measure nothing.
        images: image files and folders to verify with, one path or several; by default parts of the sample image.
        progress: callback that reports the current step.

    Raises:
        ModelFileError: if the checkpoint is missing, corrupt, or not a checkpoint of retina_edge.
        ContractError: for options that contradict each other or the checkpoint.
        ExportError: if the result differs from torch or the specification, or is outside the accuracy budget.
        DataError, SourceError: if images or annotations cannot be used.
        SinkError: if the ONNX file cannot be written to this path, or would overwrite an input.
    """
    options, output = options or ExportOptions(), Path(output)
    calibration = CalibrationOptions.of(calibration)
    inputs = [("checkpoint", checkpoint), *input_files(calibration, accuracy)]
    check_output("output", output, suffix=".onnx", inputs=inputs)

    from export.torch_export import export_onnx
    from retina_edge.model.checkpoint import load_checkpoint

    precision = options.precision
    progress("exporting and verifying", None, None)
    loaded = load_checkpoint(checkpoint)
    model, contract = loaded.build_model(), _contract(loaded.contract, options)
    conversion = Conversion.prepare(
        precision,
        source_precision="fp32",
        bit_depth=contract.bit_depth,
        layout=options.layout or CPU,
        calibration=calibration,
        accuracy=accuracy,
        images=images,
        progress=progress,
    )
    if contract.input_size != loaded.contract.input_size:
        contract = dataclasses.replace(contract, levels=model.pyramid(contract.input_size))
    frames = conversion.verification_images(contract.input_size)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = output if precision == "fp32" else Path(folder) / "fp32.onnx"
        report = export_onnx(
            model, contract, fp32, batch=options.batch, images=frames, half_weights=options.half_weights
        )
        size, drift, contract = report.size, None, report.contract
        if precision != "fp32":
            progress(f"converting to {precision}", None, None)
            content, drift = conversion.convert(fp32.read_bytes())
            with atomic_file(output) as file:
                file.write(content)
            size, contract = len(content), dataclasses.replace(contract, precision=precision)
    return ExportResult(output, size, report.batch, contract, report.agreement, drift, conversion.findings)


def _contract(contract: DetectorContract, options: ExportOptions) -> DetectorContract:
    """Return a checkpoint's contract with the values that are chosen at export, because they are not learned."""
    chosen = {
        "score_threshold": options.score_threshold,
        "iou_threshold": options.iou_threshold,
        "agnostic": options.agnostic,
        "top_k": options.top_k,
        "max_detections": options.max_detections,
        "bit_depth": options.bit_depth,
        "input_size": options.input_size,
    }
    return dataclasses.replace(contract, **{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
