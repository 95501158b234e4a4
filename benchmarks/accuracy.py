"""COCO metrics of the sample model, checkpoint and ONNX, on the validation strips.

python -m benchmarks.accuracy
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks.record import begin, save
from retina_edge import Detector
from retina_edge.data.coco import load_coco
from retina_edge.evaluation import evaluate

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "retina_edge" / "assets"
DATA = ROOT / "tests" / "data" / "treecrowns"


def main() -> int:
    before = begin()
    dataset = load_coco(DATA / "val.json", DATA / "images")
    figures = []
    for name in ("treecrowns.pt", "treecrowns.onnx"):
        with Detector.load(ASSETS / name) as detector:
            metrics = evaluate(detector, dataset).metrics
        figures.append({"model": name, "metrics": {key: round(value, 5) for key, value in metrics.items()}})
        Console().print(f"{name}: AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f}")
    Console().print(f"written to {save('accuracy', figures, before=before).name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
