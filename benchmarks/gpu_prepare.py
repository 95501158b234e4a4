"""Models and engines for ``make gpu``, made beforehand on a machine that needs no GPU.

    python -m benchmarks.gpu_prepare

Copy the folder ``out/gpu`` to the GPU machine together with the checkout: its minutes are then spent on measuring.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.building import convert_once
from benchmarks.forest_frame import forest_frame
from benchmarks.gpu import WORK
from benchmarks.gpu_steps import SIDE
from benchmarks.networks import export_lively_r50
from engines.core.errors import RetinaEdgeError
from engines.core.machine import Machine
from engines.tensorrt.backend import find_backend
from engines.tensorrt.build_options import PORTABLE, BuildOptions
from engines.tensorrt.builder import build_engine

CONVERTED = ("fp16", "int8")
RTX = "tensorrt-rtx"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--work", type=Path, default=WORK, metavar="DIR", help="folder to write to (default: out/gpu)")
    add("--side", type=int, default=SIDE, help=f"side of the network's input, pixels (default: {SIDE})")
    add("--no-engines", action="store_true", help="build no engines of TensorRT-RTX")
    args = parser.parse_args(argv)
    folder = args.work / str(args.side)
    for old in folder.glob("r50*"):  # of an earlier version of the code
        old.unlink()
    print("exporting R50", flush=True)
    onnx = export_lively_r50(folder / "r50.onnx", args.side, forest_frame())
    written = [onnx]
    for precision in CONVERTED:
        print(f"converting to {precision.upper()}", flush=True)
        written.append(convert_once(onnx, precision))
    if not args.no_engines:
        written += _engines(written[1:])
    for path in written:
        print(f"{path.relative_to(args.work)}: {path.stat().st_size / 2**20:.0f} MiB")
    return 0


def _engines(models: Sequence[Path]) -> list[Path]:
    """Build a portable engine of each model, if TensorRT-RTX is installed."""
    try:
        find_backend(RTX, Machine())
    except RetinaEdgeError as error:
        print(f"no engines: {error}")
        return []
    engines = []
    for precision, model in zip(CONVERTED, models, strict=True):
        print(f"building a portable engine in {precision.upper()}", flush=True)
        engine = model.with_suffix(".engine")
        build_engine(model, engine, BuildOptions(precision=precision, backend=RTX, targets=(PORTABLE,)))
        engines.append(engine)
    return engines


if __name__ == "__main__":
    raise SystemExit(main())
