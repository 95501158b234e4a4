"""Raw heads to detections, at 800×800 with 9 anchors a position.

    python -m benchmarks.postprocess

On a CPU: the NumPy specification and the ONNX functions against torchvision's own, on the heads of torchvision's R50
with random weights. On a GPU: the three kernels and torchvision's there, on random heads of which about as many pass.
The caches are cold before each run there: in use, logits that a network has just written may still be in them. Each
case of the kernels is first held against the specification and against its own first run, bit for bit; a wrong kernel
has no speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from rich.table import Table
from torchvision.ops import batched_nms

from benchmarks.arguments import CPU, CUDA, run, script_parser
from benchmarks.comparison import Maker, Row, compare, not_run
from benchmarks.forest_frame import forest_frame
from benchmarks.gpu_clock import gpu_times, torch_stream
from benchmarks.networks import count_candidates, export_lively_r50, lively_r50
from benchmarks.peers import torchvision_postprocess
from benchmarks.record import Times
from engines.core.contract import DetectorContract, PyramidLevel
from engines.core.letterbox import letterbox_batch
from engines.core.tensor_names import INPUT, OUTPUTS, head_names
from engines.onnx.deployable import contract_of, heads_only, postprocess_only
from engines.plugins.kernels import KernelRun, run_kernels
from engines.plugins.launch import Geometry
from engines.plugins.parameters import pack_parameters, unpack_parameters
from engines.plugins.specification import decode, postprocess

SIDE = 800
# Feature sizes and strides of torchvision's RetinaNet at this input.
LEVELS = ((100, 8), (50, 16), (25, 32), (13, 61), (7, 114))
SIZES = (32, 64, 128, 256, 512)
# A normal distribution of logits of which, with 91 classes, about 1,000 of an image pass the threshold of 0.05, as many
# as of the CPU's heads.
MEAN, SPREAD, DELTAS_SPREAD = -6.68, 1.0, 0.2
DISTINCT = 4
# Of sigmoids in float32, each by another library.
SCORES = 1e-5
WARM_UP = 5
ROUNDS = {CPU: 50, CUDA: 200}
TORCHVISION, NMS_ALONE, KERNELS = "torchvision postprocess_detections", "torchvision batched_nms alone", "kernels"
FUNCTIONS, SPECIFICATION = "ONNX functions", "NumPy specification"
# What matters most first: heads of 32 images take long to make.
CASES = [(classes, half, batch) for batch in (1, 8, 32) for classes in (91, 1) for half in (True, False)]


def main(argv: Sequence[str] | None = None) -> int:
    return run("postprocess", script_parser(__doc__, ROUNDS).parse_args(argv), measure, _table)


def measure(device: str, rounds: int, work: Path) -> Iterator[list[Row]]:
    """Rows of one device, one by one."""
    for row in on_the_cpu(work, rounds) if device == CPU else on_the_gpu(rounds):
        yield [row]


def on_the_cpu(work: Path, runs: int, size: int = SIDE) -> Iterator[Row]:
    """One row a candidate, all on the heads of one frame."""
    deployable = onnx.load(export_lively_r50(work / str(size) / "r50.onnx", size, forest_frame()))
    contract, peer = contract_of(deployable), lively_r50(size)
    images, _ = letterbox_batch([forest_frame()], (size, size))
    levels = len(contract.levels)
    names = head_names(levels)
    heads = dict(zip(names, _session(heads_only(deployable)).run(names, {INPUT: images}), strict=True))
    functions = _session(postprocess_only(deployable))
    arrays, parameters = list(heads.values()), pack_parameters(contract)
    candidates = count_candidates(arrays[:levels])
    sizes = {"num_classes": contract.num_classes, "top_k": contract.top_k}
    theirs, tensors = torchvision_postprocess(peer, size), [torch.from_numpy(array) for array in arrays]
    # A part of the way only, for what it is worth: candidates are chosen and decoded already.
    single = [array[0] for array in arrays]
    chosen = decode(single[:levels], single[levels:], unpack_parameters(parameters, levels), **sizes)
    scores, boxes, labels = (torch.from_numpy(array) for array in chosen)

    def specification() -> npt.NDArray[Any]:
        found = postprocess(
            arrays[:levels], arrays[levels:], parameters, **sizes, max_detections=contract.max_detections
        )
        return np.asarray(found.scores[0])

    makers: dict[str, Maker] = {
        TORCHVISION: lambda _: lambda: theirs(tensors)["scores"].numpy(),
        FUNCTIONS: lambda _: lambda: functions.run(OUTPUTS, heads)[2][0],
        SPECIFICATION: lambda _: specification,
        NMS_ALONE: lambda _: lambda: scores[batched_nms(boxes, scores, labels, contract.iou_threshold)].sigmoid(),
    }

    expected = theirs(tensors)["scores"].numpy()

    def inspect(name: str, found: Any) -> Row:
        values = np.asarray(found)
        if name != NMS_ALONE and not np.allclose(values[: len(expected)], expected, rtol=0, atol=SCORES):
            raise ValueError(f"scores: expected torchvision's within {SCORES:g}, got others")
        return {"candidates": candidates, "detections": int(np.count_nonzero(values))}

    for rows in compare(makers, TORCHVISION, rounds=runs, inspect=inspect):
        yield from rows


def on_the_gpu(runs: int) -> Iterator[Row]:
    """The kernels in each case, and torchvision's in the one that it has: one image, 91 classes, FP32."""
    for classes, half, batch in CASES:
        common = {"input": SIDE, "classes": classes, "batch": batch, "type": "float16" if half else "float32"}
        ways: dict[str, Callable[[int, int, bool, int], Row]] = {KERNELS: _kernels}
        if (classes, half, batch) == (91, False, 1):
            ways[TORCHVISION] = _torchvision
        for name, way in ways.items():
            try:
                yield {**common, "candidate": name, **way(classes, batch, half, runs)}
            except Exception as error:  # another case may well run
                yield {**common, **not_run(name, error)}


def _torchvision(classes: int, batch: int, half: bool, runs: int) -> Row:
    """By the GPU's clock, which goes on while torchvision waits for counts of candidates on the host."""
    geometry = Geometry.of(_contract(classes), half=half)
    work = torchvision_postprocess(lively_r50(SIDE).cuda(), SIDE)
    logits, deltas = _heads(geometry, batch)
    heads = [torch.from_numpy(head).cuda() for head in (*logits, *deltas)]
    return {
        **gpu_times(torch_stream(), partial(work, heads), runs=runs).row(),
        "detections": len(work(heads)["scores"]),
    }


def _kernels(classes: int, batch: int, half: bool, runs: int) -> Row:
    contract = _contract(classes)
    geometry, parameters = Geometry.of(contract, half=half), pack_parameters(contract)
    logits, deltas = _heads(geometry, batch)
    first = run_kernels(logits, deltas, parameters, geometry)
    _check_against_the_specification(first, contract, logits, deltas)
    run = run_kernels(logits, deltas, parameters, geometry, runs=WARM_UP + runs)
    for ours, theirs in zip(run.detections, first.detections, strict=True):
        if ours.tobytes() != theirs.tobytes():
            raise ValueError("kernels: expected the same bits from every run, got others")
    counted = run.milliseconds[WARM_UP:]
    sums = counted.sum(axis=1)
    read = sum(head.nbytes for head in logits)
    parts = zip(("filter", "select", "nms"), np.median(counted, axis=0), strict=True)
    passed = sum(int(np.count_nonzero(head > parameters[0])) for head in logits)
    return {
        **Times.of(sums.tolist()).row(),
        **{f"{name}_ms": round(float(part), 5) for name, part in parts},
        "p99_ms": round(float(np.percentile(sums, 99)), 5),
        "megabytes_of_logits": round(read / 1e6, 2),
        "gigabytes_per_second": round(read / 1e6 / float(np.median(sums)), 1),
        "caches": "cold",
        "candidates": passed,
        "detections": int(run.detections.num_detections.sum()),
    }


def _check_against_the_specification(
    run: KernelRun,
    contract: DetectorContract,
    logits: list[npt.NDArray[Any]],
    deltas: list[npt.NDArray[Any]],
) -> None:
    """Of the first image; raises AssertionError with the difference."""
    expected = postprocess(
        [head[:1].astype(np.float32) for head in logits],
        [head[:1].astype(np.float32) for head in deltas],
        pack_parameters(contract),
        num_classes=contract.num_classes,
        top_k=contract.top_k,
        max_detections=contract.max_detections,
    )
    np.testing.assert_array_equal(run.detections.num_detections[:1], expected.num_detections)
    np.testing.assert_array_equal(run.detections.labels[:1], expected.labels)


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


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
    tensors = list(geometry.inputs(batch).values())[:-1]
    levels = len(geometry.feature_sizes)
    heads = []
    for index, tensor in enumerate(tensors):
        distinct = generator.standard_normal((min(batch, DISTINCT), *tensor.shape[1:]), np.float32)
        distinct *= SPREAD if index < levels else DELTAS_SPREAD
        distinct += MEAN if index < levels else 0.0
        heads.append(np.resize(distinct.astype(tensor.dtype), tensor.shape))
    return heads[:levels], heads[levels:]


def _table(figures: Sequence[Row]) -> Table:
    table = Table("", "classes", "batch", "type", "ms", "times as fast", "Filter", "Select", "NMS", "detections")
    for row in figures:
        named = (row["candidate"], *(str(row.get(name, "")) for name in ("classes", "batch", "type")))
        cells = [f"{row[name]:.4f}" if name in row else "" for name in ("ms", "filter_ms", "select_ms", "nms_ms")]
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        table.add_row(*named, cells[0], ratio, *cells[1:], row.get("not_run") or str(row["detections"]))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
