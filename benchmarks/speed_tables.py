"""The tables of speed in the documentation: ratios for a CPU, and also milliseconds for a named GPU."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.table_parts import Record, Row, bold, milliseconds, ratio, table

# Names of varied quantities, if they differ from those in the result file.
VARIED = {"candidates": "candidates per level"}


def end_to_end(record: Record) -> str:
    rows = record["figures"]
    cases = list(dict.fromkeys((row["device"], row["input"]) for row in rows))
    cells = {(row["candidate"], row["device"], row["input"]): row for row in rows}
    lines = []
    for candidate in dict.fromkeys(row["candidate"] for row in rows):
        ratios = [ratio(cells.get((candidate, *case), {})) for case in cases]
        lines.append((candidate, *bold(candidate, ratios)))
    return table(("R50, 91 classes", *(f"{side}×{side}, {device.upper()}" for device, side in cases)), lines)


def end_to_end_gpu(record: Record) -> str:
    rows = record["figures"]
    # Earlier files have no partners.
    has_partners = any("partners" in row for row in rows)
    header = (
        "boxes of FP32 that score at least 0.1 and have a partner, mean displacement"
        if has_partners
        else "share of detections that agree with FP32"
    )
    lines = []
    for row in rows:
        agree = f"{row['agreement']:.3f}" if "agreement" in row and not has_partners else ""
        if "partners" in row:
            agree = f"{row['partners']:.1%}, {row['displacement']:.2f} px"
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        lines.append((row["candidate"], *bold(row["candidate"], [milliseconds(row), ratio]), agree))
    sides = " and ".join(f"{side}×{side}" for side in dict.fromkeys(row["input"] for row in rows))
    base = next((row["candidate"] for row in rows if row.get("ratio") == 1), "torchvision")
    return table((f"R50, 91 classes, {sides}", "ms", f"times as fast as {base}", header), lines)


def preprocess(record: Record) -> str:
    return _by_frame(record, lambda row: ratio(row))


def preprocess_gpu(record: Record) -> str:
    return _by_frame(record, lambda row: f"{row['ms']:.4f} ms" if "ms" in row else row.get("not_run", ""))


def _by_frame(record: Record, cell: Callable[[Row], str]) -> str:
    rows = record["figures"]
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    lines = []
    for frame, size in dict.fromkeys((tuple(row["frame"]), tuple(row["input"])) for row in rows):
        chosen = {row["candidate"]: row for row in rows if (tuple(row["frame"]), tuple(row["input"])) == (frame, size)}
        lines.append((f"{frame[1]}×{frame[0]} to {size[1]}×{size[0]}", *(cell(chosen.get(name, {})) for name in names)))
    return table(("Frame to input", *names), lines)


def postprocess(record: Record) -> str:
    rows = [(row["candidate"], ratio(row)) for row in record["figures"]]
    return table(("R50 800×800, 91 classes, CPU", "times as fast as torchvision"), rows)


def postprocess_gpu(record: Record) -> str:
    parts = ("filter_ms", "select_ms", "nms_ms")
    rows = [
        (
            row["candidate"],
            f"{row['classes']}",
            f"{row['batch']}",
            row["type"],
            milliseconds(row),
            *(f"{row[part]:.4f}" if part in row else "" for part in parts),
        )
        for row in record["figures"]
    ]
    return table(("800×800", "classes", "batch", "logits", "ms", "Filter", "Select", "NMS"), rows)


def detectors(record: Record) -> str:
    return _with_facts(record, with_ms=False)


def detectors_gpu(record: Record) -> str:
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
        times = [milliseconds(row)] if with_ms else []
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
    return table(header, lines)


def _size(row: Row) -> str:
    return "×".join(map(str, row.get("input", ())))


def scaling(record: Record) -> str:
    rows = record["figures"]
    lines = []
    for name in dict.fromkeys(row["varied"] for row in rows):
        chosen = [row for row in rows if row["varied"] == name]
        costs = [f"{row['value']}: {row['cost']:.2f}" if "cost" in row else f"{row['value']}: –" for row in chosen]
        lines.append((VARIED.get(name, name), ", ".join(costs)))
    return table(("varied", "value: cost of a frame"), lines)


def scaling_gpu(record: Record) -> str:
    rows = record["figures"]
    why = next((f"\n\n*On {row['on']}: {row['why']}*" for row in rows if "why" in row), "")
    return scaling(record) + why


def detect_loop(record: Record) -> str:
    rows = [(row["model"], f"**{row['share']:.2f}**") for row in record["figures"]]
    return table(("Model", "frames per second of the loop, as a share of the bare session's"), rows)


def load(record: Record) -> str:
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
    return table(header, rows)


def host_time(record: Record) -> str:
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
    return table(header, [*rows, ("copying the frame once", f"{times['copy']:.1f}", "1")])


def endurance(record: Record) -> str:
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
    return table((title, ""), rows)


def runner(record: Record) -> str:
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
    return table(("milliseconds per frame", *columns), rows) + "\n\n" + "\n".join(f"- {fact}" for fact in facts)


def goals(record: Record) -> str:
    figures = record["figures"]
    lines = []
    for row in figures["goals"]:
        limit = f"≥ {row['at least']}" if "at least" in row else f"≤ {row['at most']}"
        measured = "not measured" if row["measured"] is None else f"{row['measured']:.4g}"
        lines.append((f"{row['goal']}, {row['unit']}", limit, measured, {True: "yes", False: "no"}.get(row["met"], "")))
    met = table(("goal, for an H200", "limit", "measured", "met"), lines)
    failed = [f"{step['step']} ({step['ended']})" for step in figures["steps"] if step["ended"] != "ok"]
    outcomes = [test["outcome"] for test in figures["tests"]]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)) or "not run"
    return f"{met}\n\nTests on the GPU: {counts}. Steps that failed: {', '.join(failed) or 'none'}."
