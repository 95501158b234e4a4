"""Converted models and engines, each written once beside the ONNX it is made from.

    python -m benchmarks.building r50.onnx fp16

The steps of ``benchmarks.gpu`` share a folder, so they do not repeat each other's work.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.forest_frame import forest_frame
from benchmarks.forest_windows import write_windows
from engines.core.contract import PRECISIONS, TENSORRT
from engines.core.errors import BuildError, RetinaEdgeError
from engines.core.machine import this_machine
from engines.tensorrt.backend import find_backend
from engines.tensorrt.build_options import KERNELS, PORTABLE, BuildOptions
from engines.tensorrt.builder import build_engine
from engines.tensorrt.compatibility import check_runs_here
from engines.tensorrt.passport import read_engine
from export.precision.calibration import audit
from export.precision.conversion import Calibration, convert_file
from retina_edge.imaging.image_file import read_image

# A few images are enough: speed does not depend on the ranges.
CALIBRATION_IMAGES = 16


def convert_once(onnx: Path, precision: str, *, layout: str = TENSORRT) -> Path:
    """Convert a deployable FP32 ONNX, unless that was done before, and return the new file.

    The file lies beside the ONNX, for instance ``r50.int8-cpu.onnx``. For FP32 it is the ONNX itself.
    """
    if precision == "fp32":
        return onnx
    path = onnx.with_suffix(f".{precision}{f'-{layout}' if precision == 'int8' else ''}.onnx")
    if path.is_file():
        return path
    frames = [forest_frame()]
    if precision != "int8":
        convert_file(onnx, path, precision, images=frames)
        return path
    with tempfile.TemporaryDirectory() as folder:
        images = audit(write_windows(Path(folder)), read_image, count=CALIBRATION_IMAGES)
        convert_file(onnx, path, precision, images=frames, calibration=Calibration(images, layout))
    return path


def build_once(onnx: Path | Callable[[], Path], precision: str, *, max_batch: int | None = None) -> Path:
    """Build an engine from a deployable FP32 ONNX for the GPU of this machine, and return its path.

    If TensorRT-RTX cannot build for this GPU, a portable engine is built, unless TensorRT-RTX does not support the GPU.
    A prepared engine that runs here is kept.

    Args:
        onnx: the ONNX, or a function that exports it, which is not called if no engine can be built.
        precision: precision of the engine.
        max_batch: largest batch size; None for the batch size of the ONNX.

    Raises:
        RetinaEdgeError: if no backend is installed, or it does not support this GPU or cannot build this model.
    """
    machine = this_machine()
    # Raises before a conversion, which takes a minute for INT8.
    BuildOptions().for_backend(find_backend("auto", machine), machine)
    onnx = onnx if isinstance(onnx, Path) else onnx()
    model = convert_once(onnx, precision)
    engine = model.with_suffix(".engine")
    if engine.is_file() and _runs_here(engine):
        return engine
    options = BuildOptions(precision=precision, max_batch=max_batch, postprocess=KERNELS if max_batch else "auto")
    try:
        build_engine(model, engine, options)
    except BuildError:
        if not find_backend("auto", this_machine()).is_rtx:
            raise
        build_engine(model, engine, dataclasses.replace(options, targets=(PORTABLE,)))
    return engine


def _runs_here(engine: Path) -> bool:
    machine = this_machine()
    try:
        passport = read_engine(engine)
        backend = find_backend(passport.backend, machine)
        check_runs_here(passport, engine, backend=backend.name, version=backend.version, machine=machine)
    except RetinaEdgeError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Build one engine beside its ONNX."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("precision", choices=PRECISIONS)
    args = parser.parse_args(argv)
    print(build_once(args.onnx, args.precision).name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
