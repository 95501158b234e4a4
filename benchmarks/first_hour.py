"""Accuracy that training without options reaches in a few minutes from random weights, with several seeds.

    python -m benchmarks.first_hour --treecrowns DIR

The shapes are those of ``examples/first_hour``; the tree crowns are the tiles that the sample model was trained on,
measured on the strips in ``tests/data/treecrowns``. Each run is ``retina-edge train DATA -o MODEL --minutes N``.
"""

from __future__ import annotations

import argparse
import csv
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.record import begin, save
from retina_edge.train import main as train

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
SHAPES_MINUTES, TREES_MINUTES = 8.0, 20.0
VAL = ROOT / "tests" / "data" / "treecrowns"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--treecrowns", type=Path, metavar="DIR", help="folder with train.json and images/ of the tree crowns"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of the runs (default: 0 1 2)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the minutes, to try the script (default: 1)"
    )
    args = parser.parse_args(argv)
    before = begin()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for data, minutes, command in sets(folder, args.treecrowns):
            for seed in args.seeds:
                minutes_of_run = args.scale * minutes
                row = measure([*command, "--seed", str(seed)], folder / "model.pt", minutes_of_run)
                rows.append({"data": data, "seed": seed, "minutes": minutes_of_run, **row})
                path = save("first_hour", rows, before=before)
                print(rows[-1], flush=True)
    print(f"written to {path.name}")
    return 0


def sets(folder: Path, treecrowns: Path | None) -> list[tuple[str, float, list[str]]]:
    """Return the data sets: name, minutes and arguments of ``train``."""
    script = ROOT / "examples" / "first_hour" / "make_pictures.py"
    with patch.object(sys, "argv", [str(script), str(folder / "shapes")]):
        runpy.run_path(str(script), run_name="__main__")
    found = [("shapes", SHAPES_MINUTES, [str(folder / "shapes")])]
    if treecrowns is not None:
        val = ["--val", str(VAL / "val.json"), "--val-images", str(VAL / "images")]
        found.append(("tree crowns", TREES_MINUTES, [str(treecrowns / "train.json"), *val]))
    return found


def measure(command: Sequence[str], model: Path, minutes: float) -> dict[str, float]:
    """Train once and return the metrics of the best epoch."""
    run = ["-o", str(model), "--minutes", f"{minutes:g}", "--backbone-weights", "none"]
    if train([*command, *run]):
        raise RuntimeError("train: expected it to succeed; see its error message above")
    rows = list(csv.DictReader(model.with_suffix(".csv").read_text().splitlines()))
    best = max((row for row in rows if row["AP"]), key=lambda row: float(row["AP"]))
    return {"steps": int(rows[-1]["step"]), **{name: float(best[name]) for name in ("AP", "AP50")}}


if __name__ == "__main__":
    raise SystemExit(main())
