"""How ranges are best chosen for INT8: AP of the sample model by calibrator and layout, against FP32.

    python -m benchmarks.calibrators

Calibrated on windows of the forest that comes along, measured on the validation strips, through ONNX Runtime.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.progress import Progress

from benchmarks.accuracy import DATA
from benchmarks.forest_windows import write_windows
from benchmarks.record import begin, save
from engines.contract import LAYOUTS
from export.accuracy_budget import AccuracyBudget
from export.calibration import CALIBRATORS, CalibrationSet, audit
from export.precision import Calibration, convert
from retina_edge import Detector
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.evaluation import evaluate
from retina_edge.image_file import read_image
from retina_edge.sample import MODEL


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args(argv)
    before, console = begin(), Console()
    dataset = load_coco(DATA / "val.json", DATA / "images")
    with tempfile.TemporaryDirectory() as name, Progress(console=console, transient=True) as bar:
        folder = Path(name)
        images = audit(write_windows(folder), read_image)
        model = onnx.load(MODEL)
        rows: list[dict[str, Any]] = [{"calibrator": "fp32", "layout": "", **_accuracy(model, dataset, folder)}]
        cases = [(layout, calibrator) for layout in LAYOUTS for calibrator in CALIBRATORS]
        for layout, calibrator in bar.track(cases, description="calibrating"):
            rows.append(measure(model, images, layout, calibrator, dataset, folder))
            path = save("calibrators", rows, before=before)
    for row in rows:
        console.print(f"{row['calibrator']} {row['layout']}: AP {row['AP']:.4f}, AP50 {row['AP50']:.4f}")
    console.print(f"written to {path.name}")
    return 0


def measure(
    model: onnx.ModelProto, images: CalibrationSet, layout: str, calibrator: str, dataset: CocoDataset, folder: Path
) -> dict[str, Any]:
    """One row; ranges are kept in the folder, since both layouts take the same.

    Under a budget that everything holds: without one, what is far off by its signal to noise would be refused.
    """
    calibration = Calibration(images, layout, calibrator, folder / "ranges")
    frames = [read_image(path) for path in images.paths[:4]]
    found: dict[str, float] = {}

    def average_precision(candidate: onnx.ModelProto) -> float:
        found.update(_accuracy(candidate, dataset, folder))
        return found["AP"]

    budget = AccuracyBudget(100.0, average_precision, {}, frames)
    _, drift = convert(model, "int8", images=frames, calibration=calibration, budget=budget)
    return {"calibrator": calibrator, "layout": layout, **found, "decibels": drift.worst[1]}


def _accuracy(model: onnx.ModelProto, dataset: CocoDataset, folder: Path) -> dict[str, float]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    with Detector.load(path) as detector:
        metrics = evaluate(detector, dataset).metrics
    return {name: round(metrics[name], 5) for name in ("AP", "AP50", "APs", "APm", "APl")}


if __name__ == "__main__":
    raise SystemExit(main())
