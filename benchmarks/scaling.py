"""What a frame costs against batch, input size, number of classes and number of candidates.

    python -m benchmarks.scaling

One thing is varied at a time around a RetinaNet-R18 of 320×320 pixels; all of a row run in turn. Candidates are counted
as they pass the threshold and the best of each level: random weights with a threshold of 0 give ``top_k`` a level.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.networks import exported, random_retinanet
from benchmarks.record import interleaved, save
from engines.build_options import BuildOptions
from engines.builder import build_engine
from engines.machine import this_machine
from retina_edge import Detector
from retina_edge.measurement.frames import sample_frames
from retina_edge.model.config import ModelConfig

SIDE, CLASSES = 320, 20
VARIED: dict[str, tuple[int, ...]] = {
    "batch": (1, 2, 4, 8),
    "input": (224, 320, 480, 640, 800),
    "classes": (1, 20, 91, 365),
    "candidates": (0, 100, 300, 1000),
}
# The value that the others are set against.
BASES = {"batch": 1, "input": SIDE, "classes": CLASSES, "candidates": 0}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="counted runs of each (default: 15)")
    rounds = parser.parse_args(argv).rounds
    on = "engine, FP16" if this_machine().gpu else "ONNX Runtime"
    figures = [row for name in VARIED for row in _measure(name, rounds, on)]
    table = Table("varied", "value", "ms a frame", f"cost, {SIDE}x{SIDE}, {CLASSES} classes = 1")
    for row in figures:
        table.add_row(row["varied"], str(row["value"]), f"{row['ms']:.2f}", f"{row['cost']:.2f}")
    Console().print(table)
    Console().print(f"written to {save('scaling', figures).name}")
    return 0


def _measure(varied: str, rounds: int, on: str) -> list[dict[str, Any]]:
    frames = sample_frames()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        candidates = {}
        for value in VARIED[varied]:
            settings = {**BASES, varied: value}
            detector = stack.enter_context(_detector(settings, Path(folder) / f"{value}.onnx", frames[0], on))
            candidates[str(value)] = partial(detector, frames[: settings["batch"]])
        times = interleaved(candidates, rounds=rounds)
    per_frame = {value: times[str(value)] / (value if varied == "batch" else 1) for value in VARIED[varied]}
    base = per_frame[BASES[varied]]
    return [
        {"varied": varied, "value": value, "ms": round(ms, 4), "cost": round(ms / base, 3), "on": on, "rounds": rounds}
        for value, ms in per_frame.items()
    ]


def _detector(settings: dict[str, int], path: Path, frame: npt.NDArray[np.uint8], on: str) -> Detector:
    config = ModelConfig(settings["classes"], backbone="resnet18", fpn_channels=64)
    wanted = settings["candidates"]
    changes: dict[str, Any] = {"score_threshold": 0.0, "top_k": wanted} if wanted else {}
    model, contract = random_retinanet(config, settings["input"], **changes)
    exported(model, contract, path, frame, batch=settings["batch"])
    if on == "ONNX Runtime":
        return Detector.load(path)
    engine = path.with_suffix(".engine")
    build_engine(path, engine, BuildOptions(precision="fp16"))
    return Detector.load(engine)


if __name__ == "__main__":
    raise SystemExit(main())
