"""What each step of a training recipe gains, alone and together, with several seeds and the same number of steps.

    python -m benchmarks.recipe --treecrowns DIR

The data are shapes over windows of the forest, and tree crowns: trained on a part of the sample model's training tiles
and measured on others, so that the recipe of the sample model can be chosen without its validation strips. All runs
train the same network from random weights. The base has the options that ``train`` chooses, with heads without
normalization. The figures are those of the end of a run. The number of steps is fixed, so other programs on the machine
do not change the result. ``--resume`` keeps the runs that are in the result file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.record import begin, save
from benchmarks.shapes import SIDE, write_shapes

SEEDS = (0, 1, 2)
SHAPES, TREES = "shapes", "tree crowns"
# Options of each data set. The shapes are upright.
NETWORK = {
    SHAPES: f"--input {SIDE}x{SIDE} --anchors auto --orientation horizontal",
    TREES: "--input 416x416 --anchors 16 32 64 128 --orientation dihedral",
}
COMMON = (
    "--backbone resnet18 --backbone-weights none --backbone-levels 4 --fpn-channels 64 --head-depth 2 --box-loss giou "
    "--crop 128x128 --batch 8 --optimizer adamw --lr 1e-3 --weight-decay 0.05 --warmup 50 "
    "--schedule cosine --ema 0.98 --workers 1 --device cpu"
)
BASE, DISTILLATION = "base", "distillation"
# Options that each step adds to the base.
STEPS = {
    BASE: "--head-norm none",
    "the paper's options": (
        "--head-norm none --box-loss l1 --optimizer sgd --lr 0.01 --weight-decay 1e-4 --schedule multistep --ema 0"
    ),
    "group normalization in the heads": "--head-norm group",
    "batch normalization in the heads": "--head-norm batch",
    "ATSS": "--head-norm none --assigner atss",
    "FreeAnchor": "--head-norm none --assigner free-anchor",
    "quality focal loss": "--head-norm none --class-loss quality-focal",
    "scale jitter": "--head-norm none --scale 0.5 2.0",
    "large-scale jitter": "--head-norm none --scale 0.1 2.0",
    "mosaic": "--head-norm none --mosaic 0.5",
    "copy-paste": "--head-norm none --copy-paste 0.5",
    "strong lighting": "--head-norm none --photometric strong",
    DISTILLATION: "--head-norm none --teacher TEACHER",
    "small-data: group normalization and copy-paste": "--head-norm group --copy-paste 0.5",
    "all together": (
        "--head-norm batch --assigner atss --class-loss quality-focal --photometric strong --mosaic 0.5 --scale 0.5 1.6"
    ),
}
# The teacher is larger, and trains for this many times as many steps.
TEACHER, TEACHER_STEPS = "--backbone resnet34 --fpn-channels 128 --head-norm batch", 3

# Position from the left of the tiles of each scene that a run is measured on, and the size of a tile, in pixels. Tiles
# that overlap with these by more than one column of pixels are left out.
MEASURED_TILES, TILE = {"yell528": 1899, "yell541": 849}, 400


@dataclass(frozen=True)
class Data:
    """A data set: its name, and COCO files with the folder of their images."""

    name: str
    train: Path
    val: Path
    images: Path


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
    parser.add_argument("--data", nargs="+", choices=NETWORK, default=tuple(NETWORK), help="data sets (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of the runs (default: 0 1 2)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=tuple(STEPS), help="steps to measure")
    parser.add_argument("--resume", action="store_true", help="keep the runs in the result file")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default: 1)")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder that keeps the teachers (default: a temporary one)",
    )
    args = parser.parse_args(argv)
    before = begin()
    path = record.RESULTS / "recipe.json"
    rows = json.loads(path.read_text())["figures"] if args.resume and path.exists() else []
    done = {tuple(row[name] for name in ("data", "step", "seed", "epochs", "samples")) for row in rows}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.jobs) as pool:
        folder = args.work or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        length = {"epochs": args.epochs, "samples": args.samples}
        runs = [
            (data, {"data": data.name, "step": step, "seed": seed, **length})
            for seed in args.seeds  # seed by seed, so that an interrupted benchmark has all steps
            for data in data_sets(folder, args)
            if data.name in args.data
            for step in args.steps
        ]
        runs = [(data, run) for data, run in runs if tuple(run.values()) not in done]
        distilled = {data for data, run in runs if run["step"] == DISTILLATION}
        taught = [data for data in distilled if not teacher_path(data, folder).exists()]
        long = {"epochs": TEACHER_STEPS * args.epochs, "samples": args.samples, "seed": SEEDS[0]}
        list(pool.map(lambda data: fit(data, teacher_path(data, folder), TEACHER, long), taught))
        measured = {pool.submit(measure, data, run, folder): run for data, run in runs}
        for future in as_completed(measured):
            run = measured[future]
            row = {**run, "options": STEPS[run["step"]], **future.result()}
            rows = sorted([*rows, row], key=position)
            path = save("recipe", rows, before=before)
            print(json.dumps(row), flush=True)
    print(f"written to {path.name}")
    return 0


def position(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return the position of a run in the result file: by data, step and seed."""
    return list(NETWORK).index(row["data"]), list(STEPS).index(row["step"]), row["seed"]


def data_sets(folder: Path, args: argparse.Namespace) -> Iterator[Data]:
    """Yield the data sets; their annotations, and the images of the shapes, are written to a folder."""
    if not (folder / "shapes").exists():
        write_shapes(folder / "shapes", train=args.images[0], val=args.images[1])
    files = (folder / "shapes" / name for name in ("train.json", "val.json", "images"))
    yield Data(SHAPES, *files)
    if args.treecrowns:
        content = json.loads((args.treecrowns / "train.json").read_text())
        yield Data(TREES, *split_tiles(content, folder), args.treecrowns / "images")


def split_tiles(content: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write the tiles to train on and those to measure on as two COCO files; return their paths."""

    def distance(image: dict[str, Any]) -> int:
        scene, _, left, _ = image["file_name"].split("_")  # for instance yell528_train_0300_0600.jpg
        return MEASURED_TILES[scene] - int(left)

    paths = folder / "tiles-train.json", folder / "tiles-val.json"
    parts = (
        [image for image in content["images"] if distance(image) >= TILE - 1],
        [image for image in content["images"] if distance(image) == 0],
    )
    for path, images in zip(paths, parts, strict=True):
        ids = {image["id"] for image in images}
        boxes = [box for box in content["annotations"] if box["image_id"] in ids]
        path.write_text(json.dumps({**content, "images": images, "annotations": boxes}))
    return paths


def teacher_path(data: Data, folder: Path) -> Path:
    """Return the path of the teacher of a data set."""
    return folder / f"teacher-{data.name.replace(' ', '-')}.pt"


def measure(data: Data, run: dict[str, Any], folder: Path) -> dict[str, float]:
    """Train once and return the metrics of the last epoch."""
    own = Path(tempfile.mkdtemp(dir=folder))
    fit(data, own / "model.pt", STEPS[run["step"]].replace("TEACHER", str(teacher_path(data, folder))), run)
    report = ["--json", str(own / "metrics.json"), "--device", "cpu"]
    call("evaluate", str(own / "model.pt"), str(data.val), "--images", str(data.images), *report)
    metrics = json.loads((own / "metrics.json").read_text())["metrics"]
    return {name: round(metrics[name], 4) for name in ("AP", "AP50", "APs", "APm")}


def fit(data: Data, model: Path, options: str, run: dict[str, Any]) -> None:
    """Train a model, and evaluate it only at the end."""
    length = f"--epochs {run['epochs']} --eval-every {run['epochs']} --epoch-samples {run['samples']}"
    words = f"{COMMON} {NETWORK[data.name]} {options} {length} --seed {run['seed']}".split()
    call("train", str(data.train), "--images", str(data.images), "--val", str(data.val), "-o", str(model), *words)


def call(verb: str, *arguments: str) -> None:
    """Run a verb of retina_edge in a process of its own, with one thread, so that several can run at once."""
    command = [sys.executable, "-m", f"retina_edge.{verb}", *arguments]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{verb}: expected it to succeed, got exit code {done.returncode}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    raise SystemExit(main())
