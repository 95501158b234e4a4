"""The tables of the documentation, made from result files: ratios for a CPU, and also milliseconds for a named GPU."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.record import is_busy

Record = dict[str, Any]
Row = Mapping[str, Any]
# Names of varied quantities, if they differ from those in the result file.
VARIED = {"candidates": "candidates per level"}


def source(name: str, record: Record) -> str:
    """Return the line under a table: the file, the machine, the packages and the command."""
    machine, versions = record["machine"], record["versions"]
    if name.endswith("gpu"):
        where = f"{machine.get('gpu', 'no GPU')}, driver {machine.get('driver', 'unknown')}"
    else:
        kind = "".join(f" ({', '.join(names)})" for names in [machine.get("extensions")] if names)
        where = f"{machine['processor']}{kind}, {machine['cores']} cores, {machine['system']}"
    packages = [
        f"{package} {versions[package]}" for package in ("onnxruntime", "torch", "torchvision") if package in versions
    ]
    busy = is_busy(record.get("conditions", {}).get("before", {}), machine["cores"])
    warning = ["**other processes used the CPU**"] if busy else []
    facts = ", ".join([where, *packages, *warning])
    return f"*`benchmarks/results/{name}.json`: {facts}. `{record['command']}`*"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _ratio(row: Row) -> str:
    """Return how many times as fast as the base a candidate is, or why there is no figure."""
    return f"{row['ratio']:.2f}" if "ratio" in row else row.get("not_run", "")


def _milliseconds(row: Row) -> str:
    return f"{row['ms']:.3f}" if "ms" in row else row.get("not_run", "")


def _bold(candidate: str, cells: Sequence[str]) -> list[str]:
    own = candidate.startswith("retina_edge")
    return [f"**{cell}**" if own and cell[:1].isdigit() else cell for cell in cells]


def _end_to_end(record: Record) -> str:
    rows = record["figures"]
    cases = list(dict.fromkeys((row["device"], row["input"]) for row in rows))
    cells = {(row["candidate"], row["device"], row["input"]): row for row in rows}
    lines = []
    for candidate in dict.fromkeys(row["candidate"] for row in rows):
        ratios = [_ratio(cells.get((candidate, *case), {})) for case in cases]
        lines.append((candidate, *_bold(candidate, ratios)))
    return _table(("R50, 91 classes", *(f"{side}×{side}, {device.upper()}" for device, side in cases)), lines)


def _end_to_end_gpu(record: Record) -> str:
    rows = record["figures"]
    # Earlier files have no partners.
    has_partners = any("partners" in row for row in rows)
    header = (
        "sure boxes of FP32 with a partner, mean displacement"
        if has_partners
        else "share of detections that agree with FP32"
    )
    lines = []
    for row in rows:
        agree = f"{row['agreement']:.3f}" if "agreement" in row and not has_partners else ""
        if "partners" in row:
            agree = f"{row['partners']:.1%}, {row['displacement']:.2f} px"
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        lines.append((row["candidate"], *_bold(row["candidate"], [_milliseconds(row), ratio]), agree))
    sides = " and ".join(f"{side}×{side}" for side in dict.fromkeys(row["input"] for row in rows))
    base = next((row["candidate"] for row in rows if row.get("ratio") == 1), "torchvision")
    return _table((f"R50, 91 classes, {sides}", "ms", f"times as fast as {base}", header), lines)


def _preprocess(record: Record) -> str:
    return _by_frame(record, lambda row: _ratio(row))


def _preprocess_gpu(record: Record) -> str:
    return _by_frame(record, lambda row: f"{row['ms']:.4f} ms" if "ms" in row else row.get("not_run", ""))


def _by_frame(record: Record, cell: Callable[[Row], str]) -> str:
    rows = record["figures"]
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    lines = []
    for frame, size in dict.fromkeys((tuple(row["frame"]), tuple(row["input"])) for row in rows):
        chosen = {row["candidate"]: row for row in rows if (tuple(row["frame"]), tuple(row["input"])) == (frame, size)}
        lines.append((f"{frame[1]}×{frame[0]} to {size[1]}×{size[0]}", *(cell(chosen.get(name, {})) for name in names)))
    return _table(("Frame to input", *names), lines)


def _postprocess(record: Record) -> str:
    rows = [(row["candidate"], _ratio(row)) for row in record["figures"]]
    return _table(("R50 800×800, 91 classes, CPU", "times as fast as torchvision"), rows)


def _postprocess_gpu(record: Record) -> str:
    parts = ("filter_ms", "select_ms", "nms_ms")
    rows = [
        (
            row["candidate"],
            f"{row['classes']}",
            f"{row['batch']}",
            row["type"],
            _milliseconds(row),
            *(f"{row[part]:.4f}" if part in row else "" for part in parts),
        )
        for row in record["figures"]
    ]
    return _table(("800×800", "classes", "batch", "logits", "ms", "Filter", "Select", "NMS"), rows)


def _detectors(record: Record) -> str:
    return _with_facts(record, with_ms=False)


def _detectors_gpu(record: Record) -> str:
    return _with_facts(record, with_ms=True)


def _with_facts(record: Record, *, with_ms: bool) -> str:
    rows = record["figures"]
    base = next((row for row in rows if row.get("ratio") == 1), None)
    title = f"{base['detector']}, {_size(base)}, on torch" if base else "the base"
    lines = []
    for row in rows:
        facts = [
            f"{row['parameters'] / 1e6:.1f}" if "parameters" in row else "",
            f"{row['gflop']:.1f}" if "gflop" in row else "",
            f"{row['published_ap']:.1f}" if row.get("published_ap") else "",
        ]
        name = ", ".join(filter(None, [row["detector"], _size(row)]))
        times = [_milliseconds(row)] if with_ms else []
        speed = f"{row['ratio']:.2f}" if "ratio" in row else "" if with_ms else row.get("not_run", "")
        lines.append((name, row["run_by"], *facts, *times, speed))
    header = (
        "",
        "run by",
        "M parameters",
        "GFLOP",
        "published AP",
        *(["ms"] if with_ms else []),
        f"speed, {title} = 1",
    )
    return _table(header, lines)


def _size(row: Row) -> str:
    return "×".join(map(str, row.get("input", ())))


def _scaling(record: Record) -> str:
    rows = record["figures"]
    lines = []
    for name in dict.fromkeys(row["varied"] for row in rows):
        chosen = [row for row in rows if row["varied"] == name]
        costs = [f"{row['value']}: {row['cost']:.2f}" if "cost" in row else f"{row['value']}: –" for row in chosen]
        lines.append((VARIED.get(name, name), ", ".join(costs)))
    return _table(("varied", "value: cost of a frame"), lines)


def _scaling_gpu(record: Record) -> str:
    rows = record["figures"]
    why = next((f"\n\n*On {row['on']}: {row['why']}*" for row in rows if "why" in row), "")
    return _scaling(record) + why


def _detect_loop(record: Record) -> str:
    rows = [(row["model"], f"**{row['share']:.2f}**") for row in record["figures"]]
    return _table(("Model", "frames per second of the loop, as a share of the bare session's"), rows)


def _load(record: Record) -> str:
    figures = record["figures"]
    height, width = figures["size"]

    def share(name: str) -> str:
        return f"**{figures[name]:.2f}** ({figures[f'least_{name}']:.2f} to {figures[f'greatest_{name}']:.2f})"

    header = (
        f"{figures['videos']} videos of {width}×{height} at once, a detector that takes no time",
        "frames per second",
    )
    rows = [
        ("decoding and the pipeline, as a share of bare decoding", share("share")),
        ("with frames kept for clips, as a share of the pipeline without", share("clips_share")),
    ]
    return _table(header, rows)


def _host_time(record: Record) -> str:
    figures = record["figures"]
    times = figures["microseconds"]
    header = (
        "`submit` and `result` of a 1080p frame in pinned memory, over a driver that does nothing",
        "µs",
        "copies",
    )
    names = {
        "executor": "the runner, after a copy",
        "again": "the runner, again",
        "detector": "`Detector`, after a copy",
    }
    rows = [(text, f"{times[name]:.1f}", f"**{times[name] / times['copy']:.3f}**") for name, text in names.items()]
    return _table(header, [*rows, ("copying the frame once", f"{times['copy']:.1f}", "1")])


def _endurance(record: Record) -> str:
    slow, restarts = record["figures"]["slow_detector"], record["figures"]["reconnects"]
    first, last = slow["first_third"], slow["last_third"]
    ages = [f"{part['p50_ms']:.0f}, {part['p95_ms']:.0f}, {part['max_ms']:.0f}" for part in (first, last)]
    counts = f"{slow['captured']} = {slow['detected']} + {slow['dropped']} + {slow['unaccounted']}"
    rows = [
        ("age of results in the first third of the run: p50, p95, maximum", f"{ages[0]} ms"),
        ("age of results in the last third of the run: p50, p95, maximum", f"{ages[1]} ms"),
        ("results older than twice the detector's time", f"{100 * slow['late']:.1f} %"),
        ("frames captured = detected + dropped + waiting at the end", counts),
        (
            f"{restarts['reconnects']} restarts of an RTSP server: time until its stream is back, p50, maximum",
            f"{restarts['back_p50_s']:.1f} s, {restarts['back_max_s']:.1f} s",
        ),
        (
            "longest pause of another stream during the restarts",
            f"{1000 * restarts['longest_pause_of_the_other_s']:.0f} ms",
        ),
        *(
            (
                f"{resource} after {restarts['warm_after']} restarts and after all of them",
                f"{restarts['warm'][key]}, {restarts['end'][key]}",
            )
            for key, resource in (("threads", "threads"), ("descriptors", "file descriptors"), ("MiB", "MiB of memory"))
        ),
    ]
    title = (
        f"a detector that takes {slow['detector_ms']:.0f} ms, "
        f"a camera with {slow['camera_fps']:.0f} frames per second, for {slow['seconds']:.0f} s"
    )
    return _table((title, ""), rows)


def _accuracy(record: Record) -> str:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    rows = [(f"`{row['model']}`", *(f"{row['metrics'][name]:.3f}" for name in names)) for row in record["figures"]]
    return _table(("", *names), rows)


def _calibrators(record: Record) -> str:
    fp32, *rows = record["figures"]
    lines = [
        (
            row["calibrator"],
            f"`--for {row['layout']}`",
            f"{row['AP']:.4f}",
            f"{100 * (fp32['AP'] - row['AP']):+.2f}",
            f"{row['AP50']:.4f}",
            f"{row['decibels']:.1f}" if "decibels" in row else "",
        )
        for row in rows
    ]
    header = ("calibrator", "layout", "AP", "AP points lost", "AP50", "worst raw head, dB")
    return _table(header, [("FP32", "", f"{fp32['AP']:.4f}", "", f"{fp32['AP50']:.4f}", ""), *lines])


def _recipe(record: Record) -> str:
    runs: dict[tuple[str, str], list[Any]] = {}
    for row in record["figures"]:
        runs.setdefault((row["data"], row["step"]), []).append(row)
    values = {key: {name: [row[name] for row in rows] for name in ("AP", "AP50")} for key, rows in runs.items()}
    table = []
    for (data, step), rows in runs.items():
        means = [_mean_and_spread(values[data, step][name]) for name in ("AP", "AP50")]
        gain = "" if step == "base" else _gain(values[data, "base"]["AP"], values[data, step]["AP"])
        table.append((data, step, f"`{rows[0]['options']}`", *means, gain))
    table.sort(key=lambda row: row[0])
    return _table(("data", "step", "options", "AP", "AP50", "gain in AP"), table)


def _mean_and_spread(values: Sequence[float]) -> str:
    """Return the mean and the sample standard deviation as text."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _gain(base: Sequence[float], values: Sequence[float]) -> str:
    """Return the gain as text. Within the spread means: less than the deviation of a difference of two runs."""
    gain = statistics.mean(values) - statistics.mean(base)
    if len(base) < 2 or len(values) < 2:
        return f"{gain:+.3f}, one run"
    within = abs(gain) < math.hypot(statistics.stdev(base), statistics.stdev(values))
    return f"{gain:+.3f}{', within the spread' if within else ''}"


def _elsewhere(record: Record) -> str:
    rows = [(row["forest"], str(row["trees"]), f"{row['AP']:.3f}", f"{row['AP50']:.3f}") for row in record["figures"]]
    return _table(("forest", "trees", "AP", "AP50"), rows)


def _first_hour(record: Record) -> str:
    rows = [
        (
            row["data"],
            f"{row['minutes']:g}",
            str(row["seed"]),
            str(row["steps"]),
            f"{row['AP']:.3f}",
            f"{row['AP50']:.3f}",
        )
        for row in record["figures"]
    ]
    return _table(("", "minutes", "seed", "steps", "AP", "AP50"), rows)


def _precisions(record: Record) -> str:
    speed, sizes = record["figures"]["speed"], record["figures"]["engines"]["megabytes"]
    rows = []
    for row in record["figures"]["accuracy"]:
        precision, _, layout = row["model"].partition(" for ")
        ratio = speed.get(f"network {row['model']} ratio", 1.0 if precision == "fp32" else None)
        size = sizes[precision] if layout != "cpu" else None
        rows.append(
            (
                precision.upper() + (f", `--for {layout}`" if layout else ""),
                f"{row['AP']:.4f}",
                f"{row['AP50']:.4f}",
                f"**{ratio:.2f}**" if ratio else "",
                f"{size:.1f}" if size else "",
            )
        )
    target, backend = record["figures"]["engines"]["target"], record["figures"]["engines"]["backend"]
    header = (
        "",
        "AP, sample model",
        "AP50",
        f"speed on this CPU, R50 {speed['input']}×{speed['input']}, network alone, FP32 = 1",
        f"MB of an R50 engine for {target}, {backend}",
    )
    return _table(header, rows)


def _runner(record: Record) -> str:
    figures = record["figures"]
    columns = ("mean", "p50", "p90", "p99")
    rows = [
        (stage, *("" if times.get(name) is None else f"{times[name]:.3f}" for name in columns))
        for stage, times in figures["milliseconds"].items()
    ]
    facts = [f"Network: {figures['network']}"]
    if figures.get("why"):
        facts.append(f"Reason why it is not an engine: {figures['why']}")
    for name, title in (
        ("host_overhead", "Host overhead, relative to the GPU's time"),
        ("jitter", "Jitter, p99 / p50"),
    ):
        if figures.get(name) is not None:
            facts.append(f"{title}: {figures[name]:.3f}")
    facts.append(f"Throughput: {figures['throughput']['frames_per_second']:.1f} frames per second")
    return _table(("milliseconds per frame", *columns), rows) + "\n\n" + "\n".join(f"- {fact}" for fact in facts)


def _goals(record: Record) -> str:
    figures = record["figures"]
    lines = []
    for row in figures["goals"]:
        limit = f"≥ {row['at least']}" if "at least" in row else f"≤ {row['at most']}"
        measured = "not measured" if row["measured"] is None else f"{row['measured']:.4g}"
        lines.append((f"{row['goal']}, {row['unit']}", limit, measured, {True: "yes", False: "no"}.get(row["met"], "")))
    table = _table(("goal, for an H200", "limit", "measured", "met"), lines)
    failed = [f"{step['step']} ({step['ended']})" for step in figures["steps"] if step["ended"] != "ok"]
    outcomes = [test["outcome"] for test in figures["tests"]]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)) or "not run"
    return f"{table}\n\nTests on the GPU: {counts}. Steps that failed: {', '.join(failed) or 'none'}."


# Functions that make the table of a result file, by its name without the suffix.
TABLES: dict[str, Callable[[Record], str]] = {
    "end_to_end": _end_to_end,
    "detectors": _detectors,
    "preprocess": _preprocess,
    "postprocess": _postprocess,
    "scaling": _scaling,
    "detect_loop": _detect_loop,
    "load": _load,
    "host_time": _host_time,
    "endurance": _endurance,
    "accuracy": _accuracy,
    "precisions": _precisions,
    "calibrators": _calibrators,
    "recipe": _recipe,
    "first_hour": _first_hour,
    "elsewhere": _elsewhere,
    "end_to_end_gpu": _end_to_end_gpu,
    "detectors_gpu": _detectors_gpu,
    "preprocess_gpu": _preprocess_gpu,
    "postprocess_gpu": _postprocess_gpu,
    "scaling_gpu": _scaling_gpu,
    "runner_gpu": _runner,
    "gpu": _goals,
}
