"""How ranges are best chosen for INT8: AP of the sample model by calibrator and layout, against FP32.

    python -m benchmarks.calibrators --modelopt ../modelopt/bin/python

Calibrated on windows of the forest that comes along, measured on the validation strips, through ONNX Runtime. NVIDIA's
ModelOpt is measured beside them on the same network and images, where an environment of its own has it.
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
from benchmarks.record import save
from engines.core.contract import LAYOUTS, TENSORRT
from engines.core.letterbox import letterbox_batch
from engines.onnx.deployable import contract_of, heads_only
from export.attach import attach
from export.half_weights import restore_weights
from export.precision.accuracy_budget import AccuracyBudget
from export.precision.calibration import CALIBRATORS, CalibrationSet, audit
from export.precision.conversion import Calibration, convert
from retina_edge.assets import MODEL
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.imaging.image_file import read_image

# Its two ways of choosing ranges.
MODELOPT = ("max", "entropy")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--modelopt", type=Path, metavar="PYTHON", help="an interpreter with nvidia-modelopt, to compare with"
    )
    modelopt = parser.parse_args(argv).modelopt
    console = Console()
    dataset = load_coco(DATA / "val.json", DATA / "images")
    with tempfile.TemporaryDirectory() as name, Progress(console=console, transient=True) as bar:
        folder = Path(name)
        images = audit(write_windows(folder), read_image)
        model = onnx.load(MODEL)
        fp32 = _accuracy(model, dataset, folder)
        rows: list[dict[str, Any]] = [{"calibrator": "fp32", "layout": "", **fp32}]
        cases = [(layout, calibrator) for layout in LAYOUTS for calibrator in CALIBRATORS]
        for layout, calibrator in bar.track(cases, description="calibrating"):
            rows.append(measure(model, images, layout, calibrator, dataset, folder, fp32))
            path = save("calibrators", rows)
        for method in MODELOPT if modelopt else ():
            rows.append(peer(modelopt, model, images, method, dataset, folder))
            path = save("calibrators", rows)
    for row in rows:
        console.print(f"{row['calibrator']} {row['layout']}: AP {row['AP']:.4f}, AP50 {row['AP50']:.4f}")
    console.print(f"written to {path.name}")
    return 0


def measure(
    model: onnx.ModelProto,
    images: CalibrationSet,
    layout: str,
    calibrator: str,
    dataset: CocoDataset,
    folder: Path,
    fp32: dict[str, float],
) -> dict[str, Any]:
    """One row; ranges are kept in the folder, since both layouts take the same.

    Under a budget that everything holds: without one, what is far off by its signal to noise would be refused.
    """
    calibration = Calibration(images, layout, calibrator, folder / "ranges")
    frames = [read_image(path) for path in images.paths[:4]]
    found: dict[str, float] = {}

    def average_precision(candidate: onnx.ModelProto) -> float:
        found.update(fp32 if candidate is model else _accuracy(candidate, dataset, folder))
        return found["AP"]

    budget = AccuracyBudget(100.0, average_precision, {}, frames)
    _, drift = convert(model, "int8", images=frames, calibration=calibration, budget=budget)
    return {"calibrator": calibrator, "layout": layout, **found, "decibels": drift.worst[1]}


def peer(
    python: Path, model: onnx.ModelProto, images: CalibrationSet, method: str, dataset: CocoDataset, folder: Path
) -> dict[str, Any]:
    """One row of ModelOpt: its quantization of the same network on the same images, with our Decode and NMS behind."""
    contract = contract_of(model)
    network, pixels, output = (folder / name for name in ("heads.onnx", "images.npy", "modelopt.onnx"))
    onnx.save(restore_weights(heads_only(model)), network)
    np.save(pixels, letterbox_batch([read_image(path) for path in images.paths], contract.input_size)[0])
    command = [python, Path(__file__).with_name("modelopt_peer.py"), network, pixels, method, output]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"modelopt: expected it to quantize the network; it says: {done.stderr[-500:]}")
    deployable = attach(onnx.load(output), dataclasses.replace(contract, precision="int8"))
    found = _accuracy(deployable, dataset, folder)
    version = done.stdout.split()[-1]
    return {"calibrator": f"NVIDIA ModelOpt {version}, {method}", "layout": TENSORRT, **found}


def _accuracy(model: onnx.ModelProto, dataset: CocoDataset, folder: Path) -> dict[str, float]:
    metrics = accuracy_of(model, dataset, folder)
    return {name: metrics[name] for name in ("AP", "AP50", "APs", "APm", "APl")}


if __name__ == "__main__":
    raise SystemExit(main())
