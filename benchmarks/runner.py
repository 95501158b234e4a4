"""Stages of the runner on a GPU: from a 1080p frame in host memory to its detections, R50 at 800×800, FP16.

    python -m benchmarks.runner

The network is an engine, if one runs on this GPU. Otherwise torch runs the network, and the result says why; copies,
letterbox, kernels and streams are still those of the runner.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.arguments import CUDA, add_work, work_folder
from benchmarks.building import build_once
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import ARCHITECTURE, export_lively_r50, lively_r50
from benchmarks.record import SUFFIXES, begin, save
from benchmarks.torch_network import TorchNetwork
from engines.core.executor import GPU, STAGES
from engines.core.machine import this_machine
from engines.runner.gpu_executor import GpuExecutor
from engines.tensorrt.passport import read_passport
from retina_edge import Detector
from retina_edge.measurement.bench_frames import sample_frames
from retina_edge.measurement.timing import (
    FrameCycle,
    host_overhead,
    measure_in_turn,
    measure_latency,
    measure_throughput,
    warm_up,
)
from retina_edge.model.torchvision_checkpoint import convert

SIDE = 800
WHOLE, WHOLE_PINNED = "whole frame", "whole frame, pinned"
BY_TORCH = "torch, FP16"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="seconds to measure after the warm-up (default: 10)"
    )
    parser.add_argument("--torch", action="store_true", help="run the network with torch, even if an engine runs here")
    add_work(parser)
    args = parser.parse_args(argv)
    if not this_machine().gpu:
        raise SystemExit("runner: expected an NVIDIA GPU and its driver, found none")
    before = begin()
    with work_folder(args.work) as folder:
        network, why, detector = _detector(folder, engine=not args.torch)
        with detector:
            figures = {"network": network, "why": why, "input": SIDE, **_measure(detector, args.seconds)}
    table = Table("milliseconds", "runs", "mean", "p50", "p90", "p99", title=f"{network}, {SIDE}x{SIDE}, batch 1")
    for stage, row in figures["milliseconds"].items():
        shown = ("" if row[name] is None else f"{row[name]:.4f}" for name in ("mean", "p50", "p90", "p99"))
        table.add_row(stage, str(row["runs"]), *shown)
    console = Console()
    console.print(table)
    for name in ("why", "detections", "host_overhead", "jitter", "throughput"):
        console.print(f"{name}: {figures[name]}")
    console.print(f"written to {save('runner', figures, suffix=SUFFIXES[CUDA], before=before).name}")
    return 0


def _detector(folder: Path, *, engine: bool) -> tuple[str, str, Detector]:
    """Return the description of the network, the reason why it is not an engine, and the detector.

    An engine has already run once, because only a run shows that it works on this GPU.
    """
    why = "requested with --torch"
    if engine:
        try:
            path = build_once(lambda: export_lively_r50(folder / "r50.onnx", SIDE, forest_frame()), "fp16")
            detector = Detector.load(path)
            detector(forest_frame())
        except Exception as error:  # TensorRT has many ways to refuse a GPU
            why = f"{type(error).__name__}: {error}"
        else:
            passport = read_passport(path)
            return f"{passport.backend} {passport.backend_version} engine, FP16", "", detector
    checkpoint = convert(lively_r50(SIDE).state_dict(), ARCHITECTURE, input_size=(SIDE, SIDE))
    executor = GpuExecutor(lambda _driver: TorchNetwork(checkpoint.build_model(), checkpoint.contract))
    return BY_TORCH, why, Detector(executor)


def _measure(detector: Detector, seconds: float) -> dict[str, Any]:
    frames = sample_frames()
    rounds = FrameCycle(frames, 1)
    warm_up(detector, rounds)
    stages, whole = measure_in_turn(detector, rounds, seconds / 2)
    # As readers decode them: the host copies no pixel.
    pinned = FrameCycle([detector.executor.pool.place(frame) for frame in frames], 1)
    whole_pinned = measure_latency(detector, pinned, seconds / 4)
    throughput = measure_throughput(detector, frames, batch=1, seconds=seconds / 4)
    latencies = {stage: stages[stage] for stage in (*STAGES, GPU) if stage in stages}
    latencies |= {WHOLE: whole, WHOLE_PINNED: whole_pinned}
    return {
        "frame": list(frames[0].shape[:2]),
        "milliseconds": {stage: dataclasses.asdict(latency) for stage, latency in latencies.items()},
        "jitter": whole.jitter,
        "host_overhead": host_overhead(whole, stages),
        "throughput": {**dataclasses.asdict(throughput), "frames_per_second": throughput.frames_per_second},
        "detections": len(detector(frames[0], score=detector.score_threshold)),
    }


if __name__ == "__main__":
    raise SystemExit(main())
