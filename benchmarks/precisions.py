"""Cost in accuracy and gain in speed and size of FP32, FP16 and INT8.

    python -m benchmarks.precisions

Accuracy is that of the sample model on its validation strips with ONNX Runtime; the calibration set is windows of the
sample image. Speed is that of torchvision's RetinaNet-R50 with random weights on this CPU. Size is that of TensorRT-RTX
engines of the same R50 for one GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console

from benchmarks.accuracy import DATA, accuracy_of
from benchmarks.forest_windows import write_windows
from benchmarks.networks import ARCHITECTURE, export_lively_r50
from benchmarks.record import begin, interleaved, save
from engines.core.contract import LAYOUTS, TENSORRT
from engines.core.tensor_names import INPUT
from engines.onnx.deployable import heads_only
from engines.tensorrt.backend import TENSORRT_RTX
from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.builder import build_engine
from export.precision.calibration import CalibrationSet, audit
from export.precision.conversion import Calibration, convert
from retina_edge.assets import MODEL
from retina_edge.data.load import load_dataset
from retina_edge.imaging.image_file import read_image

SIZE = 800
TARGET = "sm86"
# A few images are enough: speed does not depend on the ranges.
R50_IMAGES = 16


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="counted runs of each precision (default: 10)")
    rounds = parser.parse_args(argv).rounds
    before, console = begin(), Console()
    with tempfile.TemporaryDirectory() as name, console.status("calibrating") as status:
        folder = Path(name)
        windows = write_windows(folder)
        accuracy = _accuracy(audit(windows, read_image), folder)
        status.update("exporting R50")
        models = _r50(audit(windows, read_image, count=R50_IMAGES), folder)
        status.update("timing R50")
        speed = _speed(models, rounds)
        status.update("building engines of R50")
        sizes = _sizes(models, folder)
    for row in accuracy:
        console.print(f"{row['model']}: AP {row['AP']:.4f}, worst head {row['decibels']} dB")
    console.print({key: value for key, value in speed.items() if key.endswith("ratio")}, sizes)
    figures = {"accuracy": accuracy, "speed": speed, "engines": sizes}
    console.print(f"written to {save('precisions', figures, before=before).name}")
    return 0


def _variants(deployable: onnx.ModelProto, images: CalibrationSet) -> dict[str, tuple[onnx.ModelProto, float | None]]:
    """Convert a model to each precision and layout; return the models with the drift of the worst head in decibels."""
    frames = [read_image(path) for path in images.paths[:4]]
    half, drift = convert(deployable, "fp16", images=frames)
    variants: dict[str, tuple[onnx.ModelProto, float | None]] = {"fp32": (deployable, None)}
    variants["fp16"] = (half, drift.worst[1])
    for layout in LAYOUTS:
        model, drift = convert(deployable, "int8", images=frames, calibration=Calibration(images, layout))
        variants[f"int8 for {layout}"] = (model, drift.worst[1])
    return variants


def _accuracy(images: CalibrationSet, folder: Path) -> list[dict[str, Any]]:
    dataset = load_dataset(DATA / "val.json", DATA / "images")
    rows = []
    for name, (model, decibels) in _variants(onnx.load(MODEL), images).items():
        metrics = accuracy_of(model, dataset, folder)
        chosen = {key: metrics[key] for key in ("AP", "AP50")}
        megabytes = round(model.ByteSize() / 1e6, 1)
        rows.append({"model": name, **chosen, "decibels": decibels, "megabytes": megabytes})
    return rows


def _r50(images: CalibrationSet, folder: Path) -> dict[str, onnx.ModelProto]:
    path = export_lively_r50(folder / "r50.onnx", SIZE, read_image(images.paths[0]))
    return {name: model for name, (model, _) in _variants(onnx.load(path), images).items()}


def _speed(models: Mapping[str, onnx.ModelProto], rounds: int) -> dict[str, Any]:
    """Time the network alone, and the whole model with decode and NMS."""
    images = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    figures: dict[str, Any] = {"model": ARCHITECTURE, "input": SIZE, "rounds": rounds}
    timed = [name for name in models if name != "fp16"]  # a CPU has no FP16 arithmetic
    for part, extract in (("network", heads_only), ("detector", lambda model: model)):
        sessions = {name: _session(extract(models[name])) for name in timed}
        runs = {name: lambda session=session: session.run(None, {INPUT: images}) for name, session in sessions.items()}
        times = interleaved(runs, rounds=rounds)
        for name in timed[1:]:
            figures[f"{part} {name} ratio"] = round(times["fp32"].median / times[name].median, 2)
        figures[f"{part} ms"] = {name: round(value.median, 1) for name, value in times.items()}
        figures[f"{part} spread"] = {name: value.row() for name, value in times.items()}
    return figures


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _sizes(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, Any]:
    sizes = {}
    for name, model in models.items():
        precision, _, layout = name.partition(" for ")
        if layout in ("", TENSORRT):
            path = folder / f"{precision}.engine"
            options = BuildOptions(precision=precision, backend=TENSORRT_RTX, targets=(TARGET,))
            build_engine(model.SerializeToString(), path, options)
            sizes[precision] = _megabytes(path)
    version = importlib.metadata.version("tensorrt-rtx-cu13")
    return {"backend": f"TensorRT-RTX {version}", "target": TARGET, "megabytes": sizes}


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


if __name__ == "__main__":
    raise SystemExit(main())
