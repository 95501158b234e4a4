"""What each step of a training recipe gains, alone and together, with several seeds and the same number of steps.

    python -m benchmarks.recipe --treecrowns DIR

The data are shapes over windows of the forest, and the tree crowns of the sample model, measured on their validation
strips. All runs train the same network from random weights. The base has the options that ``train`` chooses, with heads
without normalization. The figures are those of the end of a run, so that no choice flatters them. The number of steps
is fixed, so other programs on the machine do not change the result. ``--resume`` keeps the runs that are in the result
file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.record import begin, save
from benchmarks.shapes import SIDE, write_shapes
from retina_edge.data.load import load_dataset
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import evaluate
from retina_edge.train import main as train

ROOT = Path(__file__).parents[1]
STRIPS = ROOT / "tests" / "data" / "treecrowns"
SEEDS = (0, 1, 2)
SHAPES, TREES = "shapes", "tree crowns"
NETWORK = {
    SHAPES: f"--input {SIDE}x{SIDE} --anchors auto",
    TREES: "--input 416x416 --anchors 16 32 64 128",
}
COMMON = (
    "--backbone resnet18 --backbone-weights none --backbone-levels 4 --fpn-channels 64 --head-depth 2 --box-loss giou "
    "--crop 128x128 --orientation dihedral --batch 8 --optimizer adamw --lr 1e-3 --weight-decay 0.05 --warmup 50 "
    "--schedule cosine --ema 0.98 --workers 1 --device cpu"
)
BASE, PAPER, TEACHER, DISTILLED, ALL = "base", "the paper's options", "teacher", "distillation", "all together"
# Options that each step adds to the base.
STEPS = {
    BASE: "--head-norm none",
    PAPER: "--head-norm none --box-loss l1 --optimizer sgd --lr 0.01 --weight-decay 1e-4 --schedule multistep --ema 0",
    "group normalization in the heads": "--head-norm group",
    "batch normalization in the heads": "--head-norm batch",
}
# The teacher is larger, and trains for this many times as many steps.
TEACHER_OPTIONS, TEACHER_STEPS = "--backbone resnet34 --fpn-channels 128 --head-norm batch", 3


@dataclass(frozen=True)
class Data:
    """A data set: its name, and the arguments of ``train``."""

    name: str
    arguments: list[str]
    val: Path
    val_images: Path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each training run (default: 8)")
    parser.add_argument("--samples", type=int, default=1000, help="training images per epoch (default: 1000)")
    parser.add_argument(
        "--images",
        type=int,
        nargs=2,
        default=(120, 60),
        metavar=("TRAIN", "VAL"),
        help="images to render for training and for validation (default: 120 60)",
    )
    parser.add_argument("--treecrowns", type=Path, metavar="DIR", help="folder with train.json of the tree crowns")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of the runs (default: 0 1 2)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=tuple(STEPS), help="steps to measure")
    parser.add_argument("--resume", action="store_true", help="keep the runs in the result file")
    args = parser.parse_args(argv)
    before = begin()
    path = record.RESULTS / "recipe.json"
    rows = json.loads(path.read_text())["figures"] if args.resume and path.exists() else []
    done = {tuple(row[name] for name in ("data", "step", "seed", "epochs", "samples")) for row in rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in args.seeds:  # seed by seed, so that an interrupted run has all steps
            for data in data_sets(folder, args):
                for step in args.steps:
                    run = {
                        "data": data.name,
                        "step": step,
                        "seed": seed,
                        "epochs": args.epochs,
                        "samples": args.samples,
                    }
                    if tuple(run.values()) in done:
                        continue
                    rows.append({**run, "options": STEPS[step], **measure(data, run, folder)})
                    path = save("recipe", rows, before=before)
                    print(json.dumps(rows[-1]), flush=True)
    print(f"written to {path.name}")
    return 0


def data_sets(folder: Path, args: argparse.Namespace) -> Iterator[Data]:
    """Yield the data sets; the shapes are rendered into a folder."""
    train_file, val_file = write_shapes(folder / "shapes", train=args.images[0], val=args.images[1])
    images = folder / "shapes" / "images"
    yield Data(SHAPES, [str(train_file), "--images", str(images), "--val", str(val_file)], val_file, images)
    if args.treecrowns:
        val = ["--val", str(STRIPS / "val.json"), "--val-images", str(STRIPS / "images")]
        yield Data(TREES, [str(args.treecrowns / "train.json"), *val], STRIPS / "val.json", STRIPS / "images")


def measure(data: Data, run: dict[str, Any], folder: Path) -> dict[str, float]:
    """Train once and return the metrics of the last epoch."""
    model = folder / "model.pt"
    epochs = str(run["epochs"])
    length = ["--epochs", epochs, "--epoch-samples", str(run["samples"]), "--eval-every", epochs]
    options = [NETWORK[data.name], COMMON, STEPS[run["step"]]]
    words = [word for part in options for word in part.split()]
    if train([*data.arguments, "-o", str(model), *words, *length, "--seed", str(run["seed"])]):
        raise RuntimeError("train: expected it to succeed; see its error message above")
    with Detector.load(model, device="cpu") as detector:
        metrics = evaluate(detector, load_dataset(data.val, data.val_images), batch=8).metrics
    return {name: round(metrics[name], 4) for name in ("AP", "AP50", "APs", "APm")}


if __name__ == "__main__":
    raise SystemExit(main())
