"""Milliseconds of the three kernels on a GPU, at 800×800 with 9 anchors a position.

    python -m benchmarks.postprocess

Random heads of which about as many pass as on a photograph. Each case is first held against the specification and
against its own first run, bit for bit; a wrong kernel has no speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.record import save
from engines.contract import DetectorContract, PyramidLevel
from engines.errors import RetinaEdgeError
from engines.plugins.kernels import run_kernels
from engines.plugins.launch import Geometry
from engines.plugins.parameters import pack_parameters
from engines.plugins.reference import postprocess

SIDE = 800
# Feature sizes and strides of torchvision's RetinaNet at this input.
LEVELS = ((100, 8), (50, 16), (25, 32), (13, 61), (7, 114))
SIZES = (32, 64, 128, 256, 512)
# A normal distribution of logits of which one in 6,000 passes the threshold of 0.05.
MEAN, SPREAD = -6.5, 1.0
WARM_UP = 5


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50, help="counted runs of each case (default: 50)")
    runs = parser.parse_args(argv).runs
    console, rows = Console(), []
    table = Table("classes", "batch", "type", "Filter", "Select", "NMS", "all, ms", "GB/s of logits")
    try:
        for classes in (1, 91):
            for half in (True, False):
                for batch in (1, 8, 32):
                    row = _measure(classes, batch, half=half, runs=runs)
                    rows.append(row)
                    times = [f"{row[name]:.4f}" for name in ("filter_ms", "select_ms", "nms_ms", "ms")]
                    table.add_row(str(classes), str(batch), row["type"], *times, f"{row['gigabytes_per_second']:.0f}")
    except RetinaEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(table)
    console.print(f"written to {save('postprocess', rows).name}")
    return 0


def _measure(classes: int, batch: int, *, half: bool, runs: int) -> dict[str, Any]:
    contract = _contract(classes)
    geometry, parameters = Geometry.of(contract, half=half), pack_parameters(contract)
    logits, deltas = _heads(geometry, batch)
    first = run_kernels(logits, deltas, parameters, geometry)
    expected = postprocess(
        [head[:1].astype(np.float32) for head in logits],
        [head[:1].astype(np.float32) for head in deltas],
        parameters,
        num_classes=classes,
        top_k=contract.top_k,
        max_detections=contract.max_detections,
    )
    np.testing.assert_array_equal(first.detections.num_detections[:1], expected.num_detections)
    np.testing.assert_array_equal(first.detections.labels[:1], expected.labels)
    run = run_kernels(logits, deltas, parameters, geometry, runs=WARM_UP + runs)
    for ours, theirs in zip(run.detections, first.detections, strict=True):
        np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))
    counted = run.milliseconds[WARM_UP:]
    parts = np.median(counted, axis=0)
    milliseconds = float(np.median(counted.sum(axis=1)))
    read = sum(head.nbytes for head in logits)
    return {
        "input": SIDE,
        "classes": classes,
        "batch": batch,
        "type": "float16" if half else "float32",
        **{f"{name}_ms": round(float(part), 5) for name, part in zip(("filter", "select", "nms"), parts, strict=True)},
        "ms": round(milliseconds, 5),
        "p99_ms": round(float(np.percentile(counted.sum(axis=1), 99)), 5),
        "megabytes_of_logits": round(read / 1e6, 2),
        "gigabytes_per_second": round(read / 1e6 / milliseconds, 1),
        "detections": int(run.detections.num_detections.sum()),
        "runs": runs,
    }


def _contract(classes: int) -> DetectorContract:
    octaves = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    return DetectorContract(
        architecture="retinanet",
        input_size=(SIDE, SIDE),
        class_names=tuple(f"c{number}" for number in range(classes)),
        category_ids=tuple(range(classes)),
        levels=tuple(
            PyramidLevel((side, side), (stride, stride), tuple(size * octave for octave in octaves), (0.5, 1.0, 2.0))
            for (side, stride), size in zip(LEVELS, SIZES, strict=True)
        ),
        max_detections=300,
    )


def _heads(geometry: Geometry, batch: int) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Of distinct images up to four, over and over: random numbers for 32 would take longer than all else."""
    generator = np.random.default_rng(0)
    tensors = [
        np.resize(
            generator.standard_normal((min(batch, 4), *tensor.shape[1:]), np.float32).astype(tensor.dtype),
            tensor.shape,
        )
        for tensor in list(geometry.inputs(batch).values())[:-1]
    ]
    levels = len(geometry.feature_sizes)
    logits = [(tensor * SPREAD + MEAN).astype(tensor.dtype) for tensor in tensors[:levels]]
    return logits, [(tensor * 0.2).astype(tensor.dtype) for tensor in tensors[levels:]]


if __name__ == "__main__":
    raise SystemExit(main())
