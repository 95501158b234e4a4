"""AP of the sample model in INT8, by calibrator and layout, against FP32.

    python -m benchmarks.calibrators --modelopt ../modelopt/bin/python

The calibration set is windows of the sample image. AP is measured on the validation strips with ONNX Runtime. With
``--modelopt``, NVIDIA's ModelOpt quantizes the same network on the same images, in a separate environment.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.progress import Progress

from benchmarks.accuracy import DATA, accuracy_of
from benchmarks.forest_windows import write_windows
from benchmarks.record import begin, save
from engines.core.contract import LAYOUTS, TENSORRT
from engines.core.letterbox import letterbox_batch
from engines.onnx.deployable import contract_of, heads_only
from export.attach import attach
from export.half_weights import restore_weights
from export.precision.accuracy_budget import AccuracyBudget
from export.precision.calibration import CALIBRATORS, CalibrationSet, audit
from export.precision.conversion import Calibration, convert
from retina_edge.assets import MODEL
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.imaging.image_file import read_image

# Calibration methods of ModelOpt.
MODELOPT = ("max", "entropy")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--modelopt",
        type=Path,
        metavar="PYTHON",
        help="Python interpreter of an environment with nvidia-modelopt, which is then measured, too",
    )
    modelopt = parser.parse_args(argv).modelopt
    before, console = begin(), Console()
    dataset = load_dataset(DATA / "val.json", DATA / "images")
    with tempfile.TemporaryDirectory() as name, Progress(console=console, transient=True) as bar:
        folder = Path(name)
        images = audit(write_windows(folder), read_image)
        model = onnx.load(MODEL)
        fp32 = _accuracy(model, dataset, folder)
        rows: list[dict[str, Any]] = [{"calibrator": "fp32", "layout": "", **fp32}]
        cases = [(layout, calibrator) for layout in LAYOUTS for calibrator in CALIBRATORS]
        for layout, calibrator in bar.track(cases, description="calibrating"):
            rows.append(measure(model, images, layout, calibrator, dataset, folder, fp32))
            path = save("calibrators", rows, before=before)
        for method in MODELOPT if modelopt else ():
            rows.append(peer(modelopt, model, images, method, dataset, folder))
            path = save("calibrators", rows, before=before)
    for row in rows:
        console.print(f"{row['calibrator']} {row['layout']}: AP {row['AP']:.4f}, AP50 {row['AP50']:.4f}")
    console.print(f"written to {path.name}")
    return 0


def measure(
    model: onnx.ModelProto,
    images: CalibrationSet,
    layout: str,
    calibrator: str,
    dataset: DetectionDataset,
    folder: Path,
    fp32: dict[str, float],
) -> dict[str, Any]:
    """Measure one calibrator and layout and return its row.

    The folder caches the ranges, which both layouts share. The accuracy budget is so large that every conversion is
    within it. Without a budget, a conversion with a low signal-to-noise ratio would be refused.
    """
    calibration = Calibration(images, layout, calibrator, folder / "ranges")
    frames = [read_image(path) for path in images.paths[:4]]
    metrics: dict[str, float] = {}

    def average_precision(candidate: onnx.ModelProto) -> float:
        metrics.update(fp32 if candidate is model else _accuracy(candidate, dataset, folder))
        return metrics["AP"]

    budget = AccuracyBudget(100.0, average_precision, {}, frames)
    _, drift = convert(model, "int8", images=frames, calibration=calibration, budget=budget)
    return {"calibrator": calibrator, "layout": layout, **metrics, "decibels": drift.worst[1]}


def peer(
    python: Path, model: onnx.ModelProto, images: CalibrationSet, method: str, dataset: DetectionDataset, folder: Path
) -> dict[str, Any]:
    """Measure ModelOpt's quantization of the same network on the same images, and return its row.

    Decode and NMS are the project's own.
    """
    contract = contract_of(model)
    network, pixels, output = (folder / name for name in ("heads.onnx", "images.npy", "modelopt.onnx"))
    onnx.save(restore_weights(heads_only(model)), network)
    np.save(pixels, letterbox_batch([read_image(path) for path in images.paths], contract.input_size)[0])
    command = [python, Path(__file__).with_name("modelopt_peer.py"), network, pixels, method, output]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"modelopt: expected a quantized network, got an error: {done.stderr[-500:]}")
    deployable = attach(onnx.load(output), dataclasses.replace(contract, precision="int8"))
    metrics = _accuracy(deployable, dataset, folder)
    version = done.stdout.split()[-1]
    return {"calibrator": f"NVIDIA ModelOpt {version}, {method}", "layout": TENSORRT, **metrics}


def _accuracy(model: onnx.ModelProto, dataset: DetectionDataset, folder: Path) -> dict[str, float]:
    metrics = accuracy_of(model, dataset, folder)
    return {name: metrics[name] for name in ("AP", "AP50", "APs", "APm", "APl")}


if __name__ == "__main__":
    raise SystemExit(main())
