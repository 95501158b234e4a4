"""Cost of a frame as a function of batch, input size, number of classes and number of candidates.

    python -m benchmarks.scaling

One quantity is varied at a time, around a RetinaNet-R18 with an input of 320×320 pixels; the values of a quantity run
in turn. The number of candidates is counted after the threshold and the top-k: a threshold of 0 gives ``top_k``
candidates per level. On a GPU there are fewer values, because each one needs an engine (except batch, which shares
one). If no engine runs, ONNX Runtime takes its place, and the rows say why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
from rich.table import Table

from benchmarks.arguments import CPU, CUDA, run, script_parser
from benchmarks.building import build_once
from benchmarks.comparison import Maker, Row, Work, compare, reason_of
from benchmarks.networks import export_once, random_retinanet
from retina_edge import Detector
from retina_edge.measurement.bench_frames import sample_frames
from retina_edge.model.config import ModelConfig

Values = Mapping[str, tuple[int, ...]]
VARIED: dict[str, Values] = {
    CPU: {
        "batch": (1, 2, 4, 8),
        "input": (224, 320, 480, 640, 800),
        "classes": (1, 20, 91, 365),
        "candidates": (0, 100, 300, 1000),
    },
    CUDA: {"batch": (1, 4, 16), "input": (320, 544, 800), "classes": (20, 91, 365), "candidates": (0, 1000)},
}
# The values of the base, with which the others are compared.
BASES = {"batch": 1, "input": 320, "classes": 20, "candidates": 0}
ROUNDS = {CPU: 15, CUDA: 200}
ENGINE, ONNX_RUNTIME = "engine, FP16", "ONNX Runtime"


def main(argv: Sequence[str] | None = None) -> int:
    return run("scaling", script_parser(__doc__, ROUNDS).parse_args(argv), measure_all, _table)


def measure_all(device: str, rounds: int, work: Path) -> Iterator[list[Row]]:
    """Measure one device and yield the rows of each varied quantity."""
    on = runs_on(device, work)
    for name, values in VARIED[device].items():
        yield measure(name, values, rounds, on, work)


def runs_on(device: str, work: Path) -> dict[str, str]:
    """Return the runtime of the networks and, if no engine runs on the GPU, the reason."""
    if device == CPU:
        return {"on": ONNX_RUNTIME}
    try:
        frame = sample_frames()[0]
        with ExitStack() as stack:
            _detector(BASES, frame, ENGINE, work, stack)(frame)
    except Exception as error:
        return {"on": ONNX_RUNTIME, "why": reason_of(error)}
    return {"on": ENGINE}


def measure(
    varied: str, values: Sequence[int], rounds: int, on: Mapping[str, str], work: Path, bases: Mapping[str, int] = BASES
) -> list[Row]:
    """Measure each value of one quantity; return a row for each, with its cost relative to the base.

    Args:
        varied: name of the quantity, one of ``bases``.
        values: values of the quantity.
        rounds: counted runs of each value.
        on: entries from ``runs_on``, which are added to the rows.
        work: folder for models.
        bases: values of the other quantities.
    """
    frames = sample_frames()
    dynamic = max(values) if varied == "batch" else None
    makers: dict[str, Maker] = {}
    for value in values:
        settings = {**bases, varied: value}
        makers[str(value)] = partial(_batch, settings, frames, on["on"], work, dynamic)
    rows = []
    (measured,) = compare(makers, str(bases[varied]), rounds=rounds)
    by_value = {int(row.pop("candidate")): row for row in measured}
    per_frame = {
        value: row["ms"] / (value if varied == "batch" else 1) for value, row in by_value.items() if "ms" in row
    }
    base = per_frame.get(bases[varied])
    for value, row in by_value.items():
        row.pop("ratio", None)
        cost = {"cost": round(per_frame[value] / base, 3)} if base and value in per_frame else {}
        rows.append({"varied": varied, "value": value, **row, **cost, **on})
    return rows


def _batch(
    settings: Mapping[str, int],
    frames: Sequence[npt.NDArray[Any]],
    on: str,
    work: Path,
    dynamic: int | None,
    stack: ExitStack,
) -> Work:
    return partial(_detector(settings, frames[0], on, work, stack, dynamic), list(frames[: settings["batch"]]))


def _detector(
    settings: Mapping[str, int],
    frame: npt.NDArray[Any],
    on: str,
    work: Path,
    stack: ExitStack,
    dynamic: int | None = None,
) -> Detector:
    """Make the detector of one setting. One engine serves all batch sizes; ONNX Runtime gets a model of fixed batch."""
    fixed = settings["batch"] if on == ONNX_RUNTIME or dynamic is None else None
    name = "_".join(f"{key}{value}" for key, value in {**settings, "batch": fixed or f"1to{dynamic}"}.items())
    candidates, side = settings["candidates"], settings["input"]
    changes: dict[str, Any] = {"score_threshold": 0.0, "top_k": candidates} if candidates else {}
    config = ModelConfig(settings["classes"], backbone="resnet18", fpn_channels=64)

    def export() -> Path:
        path = work / f"scaling_{name}.onnx"
        if not path.is_file():
            model, contract = random_retinanet(config, (side, side), **changes)
            export_once(model, contract, path, frame, batch=fixed)
        return path

    path = build_once(export, "fp16", max_batch=None if fixed else dynamic) if on == ENGINE else export()
    return stack.enter_context(Detector.load(path))


def _table(figures: Sequence[Row]) -> Table:
    base = f"{BASES['input']}x{BASES['input']}, {BASES['classes']} classes"
    table = Table("varied", "value", "on", "ms", f"cost of a frame, {base} = 1")
    for row in figures:
        cells = (f"{row['ms']:.2f}", f"{row['cost']:.2f}" if "cost" in row else "") if "ms" in row else ("", "")
        table.add_row(row["varied"], str(row["value"]), row["on"], cells[0], row.get("not_run") or cells[1])
    return table


if __name__ == "__main__":
    raise SystemExit(main())
