"""COCO metrics of the sample model, as a checkpoint and as an ONNX, on the validation strips.

python -m benchmarks.accuracy
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import onnx
from rich.console import Console

from benchmarks.record import begin, save
from retina_edge import Detector
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.evaluation.coco_metrics import evaluate

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "retina_edge" / "assets"
DATA = ROOT / "tests" / "data" / "treecrowns"


def accuracy_of(model: onnx.ModelProto, dataset: DetectionDataset, folder: Path) -> dict[str, float]:
    """Save a deployable ONNX in a folder, measure it there, and return its COCO metrics."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return metrics_of(path, dataset)


def metrics_of(path: Path, dataset: DetectionDataset) -> dict[str, float]:
    """Measure a model file and return its COCO metrics, rounded to 5 digits."""
    with Detector.load(path) as detector:
        metrics = evaluate(detector, dataset).metrics
    return {name: round(value, 5) for name, value in metrics.items()}


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args(argv)
    before = begin()
    dataset = load_dataset(DATA / "val.json", DATA / "images")
    figures = []
    for name in ("treecrowns.pt", "treecrowns.onnx"):
        metrics = metrics_of(ASSETS / name, dataset)
        figures.append({"model": name, "metrics": metrics})
        Console().print(f"{name}: AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f}")
    Console().print(f"written to {save('accuracy', figures, before=before).name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
