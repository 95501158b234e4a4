"""Frame to detections: this project against what a user would otherwise run, same weights, frame and thresholds.

    python -m benchmarks.end_to_end

Torchvision's RetinaNet-R50 has random weights, scaled so that boxes come out. All start from a BGR frame of 720p in
memory and end with detections in memory; all run in turn, on every core. A GPU is measured too, where there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.forest_windows import write_windows
from benchmarks.networks import lively_r50
from benchmarks.peers import onnx_by_hand, torchvisions
from benchmarks.record import interleaved, save
from engines.build_options import BuildOptions
from engines.builder import build_engine
from engines.contract import CPU, TENSORRT
from engines.errors import RetinaEdgeError
from engines.graph import heads_only
from export.calibration import audit
from export.deployable import export_onnx
from export.precision import Calibration, convert_file
from retina_edge import Detector
from retina_edge.image_file import read_image
from retina_edge.model.torchvision_checkpoint import convert
from retina_edge.sample import FOREST

FRAME_SIZE = (1280, 720)  # width, height of a common camera
SIZES = (320, 800)
BASE = "torchvision eager, FP32"
# Enough for the speed, which does not depend on the ranges.
CALIBRATION_IMAGES = 16
NO_BF16 = "this CPU has no arithmetic for BF16"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="counted runs of each (default: 10)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help=f"of the input (default: {SIZES})")
    args = parser.parse_args(argv)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    figures = [row for device in devices for size in args.sizes for row in _measure(device, size, args.rounds)]
    table = Table("", "input", "on", "ms", "times as fast", "detections", title="R50, 91 classes")
    for row in figures:
        side = f"{row['input']}x{row['input']}"
        if "ms" in row:
            cells = (f"{row['ms']:.1f}", f"{row['ratio']:.2f}", str(row["detections"]))
        else:
            cells = ("", "", row["not_run"])
        table.add_row(row["candidate"], side, row["device"], *cells)
    Console().print(table)
    Console().print(f"written to {save('end_to_end', figures).name}")
    return 0


def _measure(device: str, size: int, rounds: int) -> list[dict[str, Any]]:
    frame, failed = _frame(), dict[str, str]()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        models = _models(size, frame, Path(name))
        candidates = _torchvision(device, size, frame)
        if device == "cpu" and not _has_bf16():
            failed |= dict.fromkeys(("torchvision eager, BF16", "torchvision torch.compile, BF16"), NO_BF16)
        if device == "cpu":
            heads = heads_only(onnx.load(models["fp32"])).SerializeToString()
            candidates["ONNX Runtime by hand, FP32"] = onnx_by_hand(heads, lively_r50(size), frame, size)
        for title, make in (_onnx if device == "cpu" else _engines)(models, Path(name)).items():
            try:
                detector = stack.enter_context(make())
                candidates[title] = partial(detector, frame)
            except RetinaEdgeError as error:
                failed[title] = str(error)
        counts = {}
        for title in list(candidates):
            try:
                start = perf_counter()
                counts[title] = _count([candidates[title]() for _ in range(3)][-1])
                print(f"{device} {size} {title}: first three runs {perf_counter() - start:.1f} s", file=sys.stderr)
            except Exception as error:  # torch.compile has many ways to fail, and is then no candidate
                failed[title] = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
                del candidates[title]
        times = interleaved(candidates, rounds=rounds)
    base = times[BASE]
    common = {"model": "retinanet_resnet50_fpn", "device": device, "input": size, "rounds": rounds}
    rows = [
        {**common, "candidate": title, "ms": round(ms, 3), "ratio": round(base / ms, 3), "detections": counts[title]}
        for title, ms in times.items()
    ]
    return rows + [{**common, "candidate": title, "not_run": reason} for title, reason in failed.items()]


def _torchvision(device: str, size: int, frame: npt.NDArray[np.uint8]) -> dict[str, Callable[[], Any]]:
    dtypes = {"FP32": torch.float32}
    if device != "cpu":
        dtypes["FP16"] = torch.float16
    elif _has_bf16():
        dtypes["BF16"] = torch.bfloat16
    found = {}
    for title, dtype, compiled in (
        (f"torchvision {how}, {name}", dtype, how == "torch.compile")
        for how in ("eager", "torch.compile")
        for name, dtype in dtypes.items()
    ):
        model = lively_r50(size).to(device)
        found[title] = torchvisions(model, frame, size, device=device, dtype=dtype, compiled=compiled)
    return found


def _models(size: int, frame: npt.NDArray[np.uint8], folder: Path) -> dict[str, Path]:
    """The deployable ONNX in each precision, and the checkpoint, by name."""
    checkpoint = convert(lively_r50(size).state_dict(), "retinanet_resnet50_fpn", input_size=(size, size))
    paths = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", CPU, TENSORRT)}
    export_onnx(checkpoint.build_model(), checkpoint.contract, paths["fp32"], batch=1, images=[frame])
    convert_file(paths["fp32"], paths["fp16"], "fp16", images=[frame])
    windows = folder / "windows"
    windows.mkdir()
    images = audit(write_windows(windows), read_image, count=CALIBRATION_IMAGES)
    for layout in (CPU, TENSORRT):
        convert_file(paths["fp32"], paths[layout], "int8", images=[frame], calibration=Calibration(images, layout))
    return paths


def _onnx(models: Mapping[str, Path], _folder: Path) -> dict[str, Callable[[], Detector]]:
    return {
        "retina_edge on ONNX Runtime, FP32": lambda: Detector.load(models["fp32"]),
        "retina_edge on ONNX Runtime, INT8": lambda: Detector.load(models[CPU]),
    }


def _engines(models: Mapping[str, Path], folder: Path) -> dict[str, Callable[[], Detector]]:
    def load(precision: str) -> Detector:
        engine = folder / f"{precision}.engine"
        source = models[TENSORRT if precision == "int8" else precision]
        build_engine(source, engine, BuildOptions(precision=precision))
        return Detector.load(engine)

    precisions = ("fp32", "fp16", "int8")
    return {f"retina_edge engine, {precision.upper()}": partial(load, precision) for precision in precisions}


def _has_bf16() -> bool:
    """Without arithmetic of its own for it a CPU takes a hundred times as long."""
    try:
        return "_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _count(found: Any) -> int:
    return len(found["scores"] if isinstance(found, dict) else found)


def _frame() -> npt.NDArray[np.uint8]:
    forest = read_image(FOREST)
    return cv2.resize(forest[:, : forest.shape[0] * 16 // 9], FRAME_SIZE).astype(np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
