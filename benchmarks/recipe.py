"""Gain of the sample model's training recipe on data that it was not tuned for.

    python -m benchmarks.recipe

The data are shapes over windows of the forest. Both runs train the same network from random weights, on the same
images, for the same number of steps. The base has the options of the RetinaNet paper, at a suitable learning rate; the
recipe has the options in ``RECIPE``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.record import begin, save
from benchmarks.shapes import SIDE, write_shapes
from retina_edge.data.load import load_dataset
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import evaluate
from retina_edge.train import main as train

NETWORK = f"--backbone resnet18 --backbone-levels 4 --fpn-channels 64 --head-depth 2 --input {SIDE}x{SIDE}".split()
RUN = "--batch 8 --warmup 50 --workers 1 --recipe paper".split()
BASE = "--lr 0.01".split()
RECIPE = {
    "crops, flips and turns": ["--crop", "128x128", "--orientation", "dihedral"],
    "anchors of the data": ["--anchors", "auto"],
    "group normalization in the heads": ["--head-norm", "group"],
    "GIoU": ["--box-loss", "giou"],
    "AdamW, cosine, averaged weights": [
        *("--optimizer", "adamw", "--lr", "1e-3", "--weight-decay", "0.05"),
        *("--schedule", "cosine", "--ema", "0.99"),
    ],
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each training run (default: 6)")
    parser.add_argument("--samples", type=int, default=800, help="training images per epoch (default: 800)")
    parser.add_argument(
        "--images",
        type=int,
        nargs=2,
        default=(120, 60),
        metavar=("TRAIN", "VAL"),
        help="images to render for training and for validation (default: 120 60)",
    )
    args = parser.parse_args(argv)
    before, console = begin(), Console()
    rows: list[dict[str, Any]] = []
    run = ["--epochs", str(args.epochs), "--epoch-samples", str(args.samples)]
    options = {
        "the paper's recipe": BASE,
        "the sample model's recipe": [option for part in RECIPE.values() for option in part],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_shapes(folder, train=args.images[0], val=args.images[1])
        for recipe, chosen in options.items():
            rows.append({"recipe": recipe, "options": " ".join(chosen), **measure(files, [*chosen, *run], folder)})
            path = save("recipe", rows, before=before)
    for row in rows:
        console.print(f"{row['recipe']}: {json.dumps({name: row[name] for name in ('AP', 'AP50', 'APs')})}")
    console.print(f"written to {path.name}")
    return 0


def measure(files: tuple[Path, Path], options: Sequence[str], folder: Path) -> dict[str, float]:
    """Train once and return the metrics of the best epoch."""
    model, images = folder / "model.pt", folder / "images"
    data = [str(files[0]), "--images", str(images), "--val", str(files[1]), "-o", str(model)]
    if train([*data, *NETWORK, *RUN, *options]):
        raise RuntimeError("train: expected it to succeed; see its error message above")
    with Detector.load(model, device="cpu") as detector:
        metrics = evaluate(detector, load_dataset(files[1], images), batch=8).metrics
    return {name: round(metrics[name], 4) for name in ("AP", "AP50", "APs", "APm")}


if __name__ == "__main__":
    raise SystemExit(main())
