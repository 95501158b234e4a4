"""``retina-edge bench``: how fast a model runs here, stage by stage, and under which conditions."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engines.core.atomic_file import atomic_file
from engines.core.executor import GPU, NETWORK, POSTPROCESS, STAGES
from retina_edge.cli import argument_types, running
from retina_edge.detector import Detector
from retina_edge.environment.conditions import conditions, conditions_after, describe_machine, peak_memory, versions
from retina_edge.measurement.bench_frames import read_frames, sample_frames
from retina_edge.measurement.bench_report import print_report
from retina_edge.measurement.timing import (
    IN_FLIGHT,
    FrameCycle,
    Latency,
    host_overhead,
    measure_in_turn,
    measure_throughput,
    warm_up,
)
from retina_edge.sinks.output_checks import check_outputs
from retina_edge.sources.opening import open_sources

DECODE, WHOLE = "decode of one frame", "whole frame"
SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")
GPU_MEMORY = "memory.used"
MLPERF = (
    "drive the model by MLPerf's LoadGen instead; with --seconds 600 by MLPerf's own rules, which may take longer. "
    "Resizing the frames is timed here, which MLPerf leaves out, and its published figures are of a RetinaNet on "
    "ResNeXt50 with 264 classes"
)


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
        "--seconds",
        type=argument_types.positive_float,
        default=10.0,
        help="of measuring, after warming up (default: 10)",
    )
    parser.add_argument(
        "--batch", type=argument_types.positive_int, metavar="N", help="frames an inference (default: the model's)"
    )
    parser.add_argument(
        "--streams", type=argument_types.positive_int, default=1, metavar="N", help="threads that submit (default: 1)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="everything, with machine and versions")
    parser.add_argument(
        "--no-cuda-graph", action="store_false", dest="cuda_graph", help="launch an engine's work kernel by kernel"
    )
    parser.add_argument("--mlperf", choices=SCENARIOS, help=MLPERF)
    parser.add_argument(
        "--mlperf-qps", type=argument_types.positive_float, metavar="N", help="queries a second of Server"
    )
    parser.add_argument("--mlperf-logs", type=Path, default=Path("mlperf"), metavar="DIR", help="LoadGen's own files")
    args = parser.parse_args(argv)
    if args.mlperf and args.streams > 1:
        parser.error(f"--streams {args.streams}: expected none with --mlperf, where LoadGen says when frames come")
    return running.run(lambda: _bench(args))


def _bench(args: argparse.Namespace) -> int:
    sources = open_sources(args.source) if args.source else []
    check_outputs(args.model, sources, save=None, jsonl=args.json)
    before = conditions()
    frames, decoding = read_frames(sources) if sources else (sample_frames(), [])
    start = perf_counter()
    # Each stream has so many submissions on their way, and each takes a slot of an engine.
    with Detector.load(args.model, in_flight=IN_FLIGHT * args.streams, cuda_graph=args.cuda_graph) as detector:
        load_seconds = perf_counter() - start
        batch = detector.choose_batch(args.batch)
        report: dict[str, Any] = {
            "model": args.model.name,
            "precision": detector.contract.precision,
            "input": list(detector.contract.input_size),
            "classes": detector.contract.num_classes,
            "frame": list(frames[0].shape[:2]),
            "batch": batch,
            "seconds": args.seconds,
            "load_seconds": round(load_seconds, 3),
        }
        if args.model.suffix == ".engine":
            report["cuda_graph_allowed"] = args.cuda_graph
        with _progress() as progress:
            if args.mlperf:
                report |= _mlperf(progress, detector, frames, batch, args)
            else:
                report |= _measure(progress, detector, frames, decoding, batch, args)
        contract = json.loads(detector.contract.to_json())
        # Of engines, before they are closed: what they hold on the GPU is seen from outside only.
        after = conditions()
    report["peak_memory_mb"] = round(peak_memory(), 1)
    report["frames_mb"] = round(sum(frame.nbytes for frame in frames) / 1e6, 1)
    if GPU_MEMORY in before and GPU_MEMORY in after:
        report["gpu_memory_mib"] = after[GPU_MEMORY] - before[GPU_MEMORY]
    report["conditions"] = {"before": before, "during": report.pop("during"), "after": after}
    report |= {"machine": describe_machine(), "versions": versions(), "contract": contract}
    if args.json is not None:
        with atomic_file(args.json) as file:
            file.write((json.dumps(report, indent=2) + "\n").encode())
    print_report(Console(), report)
    return 0


def _measure(
    progress: Progress,
    detector: Detector,
    frames: list[npt.NDArray[np.uint8]],
    decoding: list[float],
    batch: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    rounds = FrameCycle(frames, batch)
    task = progress.add_task("warming up", total=None)
    warm_up(detector, rounds, in_flight=IN_FLIGHT * args.streams)
    progress.update(task, description="stages and latency")
    stages, whole = measure_in_turn(detector, rounds, args.seconds * 3 / 4)
    progress.update(task, description="throughput")
    seconds = args.seconds / 4
    with conditions_after(seconds / 2) as during:
        throughput = measure_throughput(detector, frames, batch=batch, seconds=seconds, streams=args.streams)
    latencies = {DECODE: Latency.of(decoding)} if decoding else {}
    latencies |= {stage: stages[stage] for stage in (*STAGES, GPU) if stage in stages} | {WHOLE: whole}
    overhead = host_overhead(whole, stages)
    return {
        "milliseconds": {stage: _rounded(dataclasses.asdict(latency)) for stage, latency in latencies.items()},
        "notes": _notes(args.model, stages),
        "jitter": None if whole.jitter is None else round(whole.jitter, 3),
        "host_overhead": None if overhead is None else round(overhead, 4),
        "throughput": {
            **_rounded(dataclasses.asdict(throughput)),
            "frames_per_second": round(throughput.frames_per_second, 3),
        },
        "during": during,
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
    with conditions_after(args.seconds / 2) as during:
        found = run_loadgen(
            detector,
            frames,
            scenario=args.mlperf,
            seconds=args.seconds,
            batch=batch,
            logs=args.mlperf_logs,
            queries_per_second=args.mlperf_qps,
        )
    return {"mlperf": found, "during": during}


def _notes(model: Path, stages: Mapping[str, object]) -> dict[str, str]:
    """What a stage holds that its name does not say."""
    if POSTPROCESS not in stages:
        return {NETWORK: "decode and NMS inside"}
    if model.suffix == ".pt":
        from retina_edge.model.torch_executor import select_device

        if select_device("auto").type == "cuda":
            return {NETWORK: "copies to the GPU and back inside, by the host's clock"}
    return {}


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


if __name__ == "__main__":
    raise SystemExit(main())
