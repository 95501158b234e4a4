"""``retina-edge bench``: measure the latency of each stage and the throughput of a model on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engines.core.atomic_file import atomic_file
from engines.core.errors import DeviceError
from engines.core.executor import GPU, NETWORK, POSTPROCESS, STAGES
from engines.runner.cuda_graph import GraphUse
from retina_edge.cli import argument_types, running
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.detector import Detector
from retina_edge.environment.conditions import conditions, conditions_after, describe_machine, peak_memory, versions
from retina_edge.measurement.bench_frames import read_frames, sample_frames
from retina_edge.measurement.bench_report import print_report, reason_without
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
from retina_edge.system.console import Console

DECODE, WHOLE = "decode of one frame", "whole frame"
SCENARIOS = ("SingleStream", "MultiStream", "Offline", "Server")
GPU_MEMORY = "memory.used"
MLPERF = (
    "run this scenario of MLPerf's LoadGen instead. With --seconds 600 or more, MLPerf's own rules apply (rules of "
    "v5.1, the last round with RetinaNet), and the run may take longer. Unlike in MLPerf, the time includes resizing "
    "the frames. MLPerf's published figures are for a RetinaNet on ResNeXt50 with 264 classes"
)


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge bench",
        "Measure the latency of each stage and the throughput of a model, and record the conditions.",
        example="retina-edge bench model.engine --source video.mp4 --seconds 30",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model.engine, model.onnx or model.pt")
    add(
        "--source",
        nargs="+",
        metavar="VIDEO|IMAGES",
        help="sources of the frames, which are decoded before the measurement (default: 1080p frames of a forest)",
    )
    add(
        "--seconds",
        type=argument_types.positive_float,
        default=10.0,
        metavar="S",
        help="duration of the measurement in seconds, after the warm-up (default: 10)",
    )
    add("--device", default="auto", help=argument_types.DEVICE_HELP)
    add(
        "--json",
        type=Path,
        metavar="OUT.json",
        help="file to write the report to, with the machine and the versions of packages (default: no file)",
    )
    add = parser.add_argument_group("load").add_argument
    add(
        "--batch",
        type=argument_types.positive_int,
        metavar="N",
        help="frames in a batch (default: the model's own, or 1)",
    )
    add(
        "--streams",
        type=argument_types.positive_int,
        default=1,
        metavar="N",
        help="number of threads that submit frames (default: 1)",
    )
    add(
        "--no-cuda-graph",
        action="store_false",
        dest="cuda_graph",
        help="launch the kernels of an engine one by one, without a CUDA graph",
    )
    add(
        "--require-cuda-graph",
        action="store_true",
        help="fail if no batch of the measurement was launched as a CUDA graph; the report is written before",
    )
    add = parser.add_argument_group("MLPerf").add_argument
    add("--mlperf", choices=SCENARIOS, help=f"{MLPERF} (default: no scenario)")
    add(
        "--mlperf-qps",
        type=argument_types.positive_float,
        metavar="N",
        help="queries per second in the scenario Server (default: a share of the measured throughput)",
    )
    add(
        "--mlperf-logs",
        type=Path,
        default=Path("mlperf"),
        metavar="DIR",
        help="folder for LoadGen's files (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.mlperf and args.streams > 1:
        parser.error(
            f"--streams: expected 1 with --mlperf, because LoadGen decides when frames arrive, got {args.streams}; "
            "leave --streams out"
        )
    if args.require_cuda_graph and not args.cuda_graph:
        parser.error("--require-cuda-graph: expected no --no-cuda-graph beside it; leave one of the two out")
    return running.run(lambda: _bench(args))


def _bench(args: argparse.Namespace) -> int:
    sources = open_sources(args.source) if args.source else []
    check_outputs(args.model, sources, save=None, jsonl=args.json)
    if args.require_cuda_graph and args.model.suffix != ".engine":
        raise DeviceError(
            f"{args.model}: --require-cuda-graph: expected an engine, because only engines have CUDA graphs"
        )
    before = conditions()
    frames, decoding = read_frames(sources) if sources else (sample_frames(), [])
    start = perf_counter()
    # In an engine, each submission in flight occupies a slot.
    in_flight = IN_FLIGHT * args.streams
    with Detector.load(args.model, device=args.device, in_flight=in_flight, cuda_graph=args.cuda_graph) as detector:
        load_seconds = perf_counter() - start
        batch = detector.choose_batch(args.batch)
        report: dict[str, Any] = {
            "model": args.model.name,
            "precision": detector.contract.precision,
            "input": list(detector.contract.input_size),
            "classes": detector.contract.num_classes,
            "frame": list(frames[0].shape[:2]),
            "batch": batch,
            "device": args.device,
            "seconds": args.seconds,
            "load_seconds": round(load_seconds, 3),
        }
        if args.model.suffix == ".engine":
            report["cuda_graph_allowed"] = args.cuda_graph
            report["tuned_batch"] = getattr(detector.executor, "tuned_batch", None)
        if nodes := getattr(detector.executor, "nodes_on_cpu", None):  # of an ONNX on a GPU
            report["nodes_on_cpu"] = dict(Counter(nodes))
        with _progress() as progress:
            if args.mlperf:
                report |= _mlperf(progress, detector, frames, batch, args)
            else:
                report |= _measure(progress, detector, frames, decoding, batch, args)
        contract = json.loads(detector.contract.to_json())
        # Sample while the engine is open: nvidia-smi only counts memory that is allocated at this moment.
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
    if args.require_cuda_graph and not (use := report["cuda_graph"])["with_graph"]:
        raise DeviceError(f"{args.model}: expected batches launched as a CUDA graph, got none: {reason_without(use)}")
    return 0


def _measure(
    progress: Progress,
    detector: Detector,
    frames: list[npt.NDArray[np.uint8]],
    decoding: list[float],
    batch: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Measure stages, latency and throughput, and return their part of the report."""
    batches = FrameCycle(frames, batch)
    task = progress.add_task("warming up", total=None)
    warm_up(detector, batches, in_flight=IN_FLIGHT * args.streams)
    use_before = _graph_use(detector)
    progress.update(task, description="stages and latency")
    stages, whole = measure_in_turn(detector, batches, args.seconds * 3 / 4)
    progress.update(task, description="throughput")
    seconds = args.seconds / 4
    with conditions_after(seconds / 2) as during:
        throughput = measure_throughput(detector, frames, batch=batch, seconds=seconds, streams=args.streams)
    latencies = {DECODE: Latency.of(decoding)} if decoding else {}
    latencies |= {stage: stages[stage] for stage in (*STAGES, GPU) if stage in stages} | {WHOLE: whole}
    overhead = host_overhead(whole, stages)
    return {
        **_graph_report(detector, use_before),
        "milliseconds": {stage: _rounded(dataclasses.asdict(latency)) for stage, latency in latencies.items()},
        "notes": _notes(args, stages),
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
    """Run LoadGen, and return its part of the report."""
    from retina_edge.measurement.loadgen import run_loadgen

    progress.add_task(f"LoadGen, {args.mlperf}", total=None)
    use_before = _graph_use(detector)
    with conditions_after(args.seconds / 2) as during:
        summary = run_loadgen(
            detector,
            frames,
            scenario=args.mlperf,
            seconds=args.seconds,
            batch=batch,
            logs=args.mlperf_logs,
            queries_per_second=args.mlperf_qps,
        )
    return {"mlperf": summary, "during": during, **_graph_report(detector, use_before)}


def _graph_use(detector: Detector) -> GraphUse | None:
    """Return how many submissions were launched as a CUDA graph so far; None if the model is not an engine."""
    return getattr(detector.executor, "graph_use", None)


def _graph_report(detector: Detector, before: GraphUse | None) -> dict[str, Any]:
    """Return the part of the report about CUDA graphs since an earlier moment; empty if the model is not an engine."""
    now = _graph_use(detector)
    return {} if now is None or before is None else {"cuda_graph": dataclasses.asdict(now.since(before))}


def _notes(args: argparse.Namespace, stages: Mapping[str, object]) -> dict[str, str]:
    """Return notes by stage, for stages that include more than their name says."""
    if POSTPROCESS not in stages:
        return {NETWORK: "with decode and NMS"}
    if args.model.suffix == ".pt":
        from retina_edge.model.torch_executor import select_device

        if select_device(args.device).type == "cuda":
            return {NETWORK: "with copies to the GPU and back, measured on the host"}
    return {}


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


if __name__ == "__main__":
    raise SystemExit(main())
