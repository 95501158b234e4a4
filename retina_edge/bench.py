"""``retina-edge bench``: how fast a model runs here, stage by stage, and under which conditions."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from engines.executor import GPU, NETWORK, POSTPROCESS, STAGES
from engines.files import atomic_file
from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.measurement.conditions import conditions, machine, peak_memory, versions
from retina_edge.measurement.frames import read_frames, sample_frames
from retina_edge.measurement.timing import (
    Latency,
    Rounds,
    host_overhead,
    measure_latency,
    measure_stages,
    measure_throughput,
    warm_up,
)
from retina_edge.streams.outputs import check_outputs
from retina_edge.streams.sources import open_sources

DECODE, WHOLE = "decode", "whole frame"
SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")
GPU_MEMORY = "memory.used"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb and gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="retina-edge bench", description="Latency of each stage, throughput, and what they depend on."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.engine, model.onnx or model.pt")
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="VIDEO|IMAGES",
        help="what to detect in; its first frames are decoded beforehand (default: 1080p frames of a forest)",
    )
    parser.add_argument(
        "--seconds", type=_above_zero, default=10.0, help="of measuring, after warming up (default: 10)"
    )
    parser.add_argument("--batch", type=cli.positive, metavar="N", help="frames an inference (default: the model's)")
    parser.add_argument("--streams", type=cli.positive, default=1, metavar="N", help="threads that submit (default: 1)")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="everything, with machine and versions")
    parser.add_argument("--mlperf", choices=SCENARIOS, help="drive the model by MLPerf's LoadGen instead")
    parser.add_argument("--mlperf-qps", type=_above_zero, metavar="N", help="queries a second of Server")
    parser.add_argument("--mlperf-logs", type=Path, default=Path("mlperf"), metavar="DIR", help="LoadGen's own files")
    args = parser.parse_args(argv)
    return cli.run(lambda: _bench(args))


def _bench(args: argparse.Namespace) -> int:
    sources = open_sources(args.source) if args.source else []
    check_outputs(args.model, sources, save=None, jsonl=args.json)
    before = conditions()
    frames, decoding = read_frames(sources) if sources else (sample_frames(), [])
    start = perf_counter()
    with Detector.load(args.model) as detector:
        load_seconds = perf_counter() - start
        batch = detector.check_batch(args.batch)
        report: dict[str, Any] = {
            "model": args.model.name,
            "precision": detector.contract.precision,
            "input": list(detector.contract.input_size),
            "classes": detector.contract.num_classes,
            "frame": list(frames[0].shape[:2]),
            "batch": batch,
            "load_seconds": round(load_seconds, 3),
        }
        with _progress() as progress:
            if args.mlperf:
                report["mlperf"] = _mlperf(progress, detector, frames, batch, args)
            else:
                report |= _measure(progress, detector, frames, decoding, batch, args)
        contract = json.loads(detector.contract.to_json())
        # Of engines, before they are closed: what they hold on the GPU is seen from outside only.
        after = conditions()
    report["peak_memory_mb"] = round(peak_memory(), 1)
    if GPU_MEMORY in before and GPU_MEMORY in after:
        report["gpu_memory_mib"] = after[GPU_MEMORY] - before[GPU_MEMORY]
    report |= {"conditions": {"before": before, "after": after}}
    report |= {"machine": machine(), "versions": versions(), "contract": contract}
    _print(Console(), report)
    if args.json is not None:
        with atomic_file(args.json) as file:
            file.write((json.dumps(report, indent=2) + "\n").encode())
    return 0


def _measure(
    progress: Progress,
    detector: Detector,
    frames: list[npt.NDArray[np.uint8]],
    decoding: list[float],
    batch: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    rounds = Rounds(frames, batch)
    task = progress.add_task("warming up", total=None)
    warm_up(detector, rounds)
    progress.update(task, description="stages")
    stages = measure_stages(detector, rounds, args.seconds / 4)
    progress.update(task, description="latency")
    whole = measure_latency(detector, rounds, args.seconds / 2)
    progress.update(task, description="throughput")
    throughput = measure_throughput(detector, frames, batch=batch, seconds=args.seconds / 4, streams=args.streams)
    latencies = {DECODE: Latency.of(decoding)} if decoding else {}
    latencies |= {stage: stages[stage] for stage in (*STAGES, GPU) if stage in stages} | {WHOLE: whole}
    overhead = host_overhead(whole, stages)
    return {
        "seconds": args.seconds,
        "milliseconds": {stage: _rounded(dataclasses.asdict(latency)) for stage, latency in latencies.items()},
        "jitter": round(whole.jitter, 3),
        "host_overhead": None if overhead is None else round(overhead, 4),
        "throughput": {
            **_rounded(dataclasses.asdict(throughput)),
            "frames_per_second": round(throughput.frames_per_second, 3),
        },
    }


def _mlperf(
    progress: Progress,
    detector: Detector,
    frames: list[npt.NDArray[np.uint8]],
    batch: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    from retina_edge.measurement.loadgen import run_loadgen

    progress.add_task(f"LoadGen, {args.mlperf}", total=None)
    return run_loadgen(
        detector,
        frames,
        scenario=args.mlperf,
        seconds=args.seconds,
        batch=batch,
        logs=args.mlperf_logs,
        queries_per_second=args.mlperf_qps,
    )


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _print(console: Console, report: Mapping[str, Any]) -> None:
    height, width = report["input"]
    frame_height, frame_width = report["frame"]
    console.print(
        f"{report['model']}: {report['precision']}, {height}×{width}, {report['classes']} classes, batch "
        f"{report['batch']}, frames of {frame_height}×{frame_width}",
        highlight=False,
    )
    if "mlperf" in report:
        _table(console, ("LoadGen", ""), [(name, str(value)) for name, value in report["mlperf"].items()])
    else:
        columns = ("runs", "mean", "p50", "p90", "p99")
        inside = {} if POSTPROCESS in report["milliseconds"] else {NETWORK: f"{NETWORK}, decode and NMS inside"}
        rows = [
            (inside.get(stage, stage), str(latency["runs"]), *(f"{latency[column]:.3f}" for column in columns[1:]))
            for stage, latency in report["milliseconds"].items()
        ]
        _table(console, ("milliseconds a batch", *columns), rows)
    _table(console, ("", ""), _facts(report))


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = {}
    if "throughput" in report:
        found = report["throughput"]
        how = f"streams: {found['streams']}, batches of each on their way: {found['in_flight']}"
        facts["throughput"] = f"{found['frames_per_second']:.2f} frames/s ({how})"
        facts["jitter, p99/p50"] = f"{report['jitter']:.2f}"
        if report["host_overhead"] is not None:
            facts["host overhead"] = f"{report['host_overhead']:.1%} of the GPU's time"
    facts["loading the model"] = f"{report['load_seconds']:.2f} s"
    facts["peak memory"] = f"{report['peak_memory_mb']:.0f} MB"
    if "gpu_memory_mib" in report:
        facts["memory of the GPU"] = f"{report['gpu_memory_mib']:.0f} MiB more than before"
    facts |= {name: str(value) for name, value in report["machine"].items()}
    before, after = report["conditions"]["before"], report["conditions"]["after"]
    for name in after:
        facts[name] = str(after[name]) if before.get(name) == after[name] else f"{before.get(name)} → {after[name]}"
    facts["versions"] = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    return list(facts.items())


def _table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, show_header=any(columns))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table)


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
