"""The report of ``retina-edge bench`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retina_edge.system.console import Console
from retina_edge.system.table import Table

COLUMNS = ("mean", "p50", "p90", "p99")


def print_report(console: Console, report: Mapping[str, Any]) -> None:
    """Print a report; the JSON file has the same figures.

    Args:
        console: console to print to.
        report: report of ``retina_edge.bench``.
    """
    height, width = report["input"]
    frame_height, frame_width = report["frame"]
    console.print(
        f"{report['model']}: {report['precision']}, {height}×{width}, {report['classes']} classes, batch "
        f"{report['batch']}, frames of {frame_height}×{frame_width}",
        highlight=False,
    )
    if "mlperf" in report:
        summary = dict(report["mlperf"])
        if not summary["as the rules ask"]:
            summary["Result is"] = f"{summary['Result is']}, but not under MLPerf's rules"
        _table(console, ("LoadGen", ""), [(name, _text(value)) for name, value in summary.items()])
    else:
        rows = [
            (
                f"{stage}, {report['notes'][stage]}" if stage in report["notes"] else stage,
                str(latency["runs"]),
                *("-" if latency[column] is None else f"{latency[column]:.3f}" for column in COLUMNS),
            )
            for stage, latency in report["milliseconds"].items()
        ]
        _table(console, ("milliseconds per batch", "runs", *COLUMNS), rows)
    _table(console, ("", ""), _facts(report))


def reason_without(use: Mapping[str, Any]) -> str:
    """Return why no batch was launched as a CUDA graph.

    Args:
        use: ``cuda_graph`` of the report: the fields of ``engines.runner.cuda_graph.GraphUse``.

    Examples:
        >>> reason_without({"by_library": False, "failure": "cuGraphInstantiate: CUDA_ERROR_OUT_OF_MEMORY"})
        'cuGraphInstantiate: CUDA_ERROR_OUT_OF_MEMORY'
    """
    if use["by_library"]:
        return "TensorRT-RTX captures CUDA graphs itself, and does not say if it does"
    return use["failure"] or "no graph was captured"


def _graph(report: Mapping[str, Any]) -> str:
    use = report["cuda_graph"]
    if not report["cuda_graph_allowed"]:
        return "off (--no-cuda-graph)"
    if not use["with_graph"]:
        return f"no: {reason_without(use)}"
    batches = use["with_graph"] + use["without_graph"]
    return f"yes, {use['with_graph']} of {batches} batches"


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and the value of every figure that is not a latency."""
    facts = {}
    if "throughput" in report:
        throughput = report["throughput"]
        load = f"streams: {throughput['streams']}, batches in flight per stream: {throughput['in_flight']}"
        facts["throughput"] = f"{throughput['frames_per_second']:.2f} frames/s ({load})"
        facts["jitter, p99/p50"] = "-" if report["jitter"] is None else f"{report['jitter']:.2f}"
        if report["host_overhead"] is not None:
            facts["host overhead"] = f"{report['host_overhead']:.1%} of the GPU's time"
    if "cuda_graph" in report:
        facts["CUDA graph"] = _graph(report)
    if report.get("tuned_batch") is not None:
        other = "" if report["tuned_batch"] == report["batch"] else f"; measured with {report['batch']}"
        facts["tuned for batch"] = f"{report['tuned_batch']}{other}"
    if "nodes_on_cpu" in report:
        nodes = ", ".join(f"{count} {kind}" for kind, count in report["nodes_on_cpu"].items())
        facts["left to the CPU"] = nodes
    facts["model load time"] = f"{report['load_seconds']:.2f} s"
    facts["peak memory"] = (
        f"{report['peak_memory_mb']:.0f} MB, including {report['frames_mb']:.0f} MB of frames to measure with"
    )
    if "gpu_memory_mib" in report:
        facts["GPU memory"] = f"{report['gpu_memory_mib']:.0f} MiB more than before the model was loaded"
    facts |= {name: _text(value) for name, value in report["machine"].items()}
    samples = [sample for sample in report["conditions"].values() if sample]
    for name in dict.fromkeys(name for sample in samples for name in sample):
        values = [_text(sample.get(name, "-")) for sample in samples]
        facts[name] = values[0] if len(set(values)) == 1 else " → ".join(values)
    facts["versions"] = _text(report["versions"])
    return list(facts.items())


def _table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, show_header=any(columns))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return str(value)
