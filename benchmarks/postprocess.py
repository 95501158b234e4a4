"""Raw heads to detections, at 800×800 with 9 anchors per position.

    python -m benchmarks.postprocess

On a CPU, the NumPy specification and the ONNX functions are compared with torchvision's post-processing, on the raw
heads of torchvision's R50 with random weights. On a GPU, the three kernels and torchvision's post-processing run on
random heads with about as many candidates. There the caches are cold before each run; in use, they may still hold
logits that the network has just written. Each case of the kernels must first agree with the specification, and with its
own first run bit for bit, because the speed of a wrong kernel means nothing.
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
from engines.plugins.specification import decode, detections_of, postprocess

SIDE = 800
# Feature sizes and strides of torchvision's RetinaNet at this input.
LEVELS = ((100, 8), (50, 16), (25, 32), (13, 61), (7, 114))
SIZES = (32, 64, 128, 256, 512)
# Normal distributions of random logits and box deltas. With 91 classes, about 1,000 logits of an image pass the
# threshold of 0.05, as many as in the heads that the CPU runs on.
MEAN, SPREAD, DELTAS_SPREAD = -6.68, 1.0, 0.2
# Largest number of different images in a batch of random heads.
DISTINCT = 4
# Allowed difference of scores, because each library computes the sigmoid in float32 in its own way.
SCORES = 1e-5
WARM_UP = 5
ROUNDS = {CPU: 50, CUDA: 200}
TORCHVISION, NMS_ALONE, KERNELS = "torchvision postprocess_detections", "torchvision batched_nms alone", "kernels"
FUNCTIONS, SPECIFICATION = "ONNX functions", "NumPy specification"
# The most important cases first: random heads of 32 images take long to make.
CASES = [(classes, half, batch) for batch in (1, 8, 32) for classes in (91, 1) for half in (True, False)]


def main(argv: Sequence[str] | None = None) -> int:
    return run("postprocess", script_parser(__doc__, ROUNDS).parse_args(argv), measure, _table)


def measure(device: str, rounds: int, work: Path) -> Iterator[list[Row]]:
    """Measure one device and yield its rows one by one."""
    for row in on_the_cpu(work, rounds) if device == CPU else on_the_gpu(rounds):
        yield [row]


def on_the_cpu(work: Path, runs: int, size: int = SIDE) -> Iterator[Row]:
    """Measure all candidates on a CPU, on the raw heads of one frame; yield a row for each."""
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
    # batched_nms alone starts from candidates that are selected and decoded already, so it does only a part of the
    # work.
    single = [array[0] for array in arrays]
    chosen = decode(single[:levels], single[levels:], unpack_parameters(parameters, levels), **sizes)
    scores, boxes, labels = (torch.from_numpy(array) for array in chosen)

    def specification() -> npt.NDArray[Any]:
        detections = postprocess(
            arrays[:levels], arrays[levels:], parameters, **sizes, max_detections=contract.max_detections
        )
        return np.asarray(detections.scores[0])

    makers: dict[str, Maker] = {
        TORCHVISION: lambda _: lambda: theirs(tensors)["scores"].numpy(),
        FUNCTIONS: lambda _: lambda: functions.run(OUTPUTS, heads)[2][0],
        SPECIFICATION: lambda _: specification,
        NMS_ALONE: lambda _: lambda: scores[batched_nms(boxes, scores, labels, contract.iou_threshold)].sigmoid(),
    }

    expected = theirs(tensors)["scores"].numpy()

    def inspect(name: str, scores: Any) -> Row:
        values = np.asarray(scores)
        if name != NMS_ALONE and not np.allclose(values[: len(expected)], expected, rtol=0, atol=SCORES):
            raise ValueError(f"scores: expected those of torchvision within {SCORES:g}, got different ones")
        return {"candidates": candidates, "detections": int(np.count_nonzero(values))}

    for rows in compare(makers, TORCHVISION, rounds=runs, inspect=inspect):
        yield from rows


def on_the_gpu(runs: int) -> Iterator[Row]:
    """Measure the kernels in every case, and torchvision in the one that it supports: one image, 91 classes, FP32."""
    for classes, half, batch in CASES:
        common = {"input": SIDE, "classes": classes, "batch": batch, "type": "float16" if half else "float32"}
        ways: dict[str, Callable[[int, int, bool, int], Row]] = {KERNELS: _kernels}
        if (classes, half, batch) == (91, False, 1):
            ways[TORCHVISION] = _torchvision
        for name, way in ways.items():
            try:
                yield {**common, "candidate": name, **way(classes, batch, half, runs)}
            except Exception as error:  # another case may succeed
                yield {**common, **not_run(name, error)}


def _torchvision(classes: int, batch: int, half: bool, runs: int) -> Row:
    """Measure torchvision with the GPU's clock, which includes the time that it waits for counts on the host."""
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
    _check_against_specification(first, contract, logits, deltas)
    run = run_kernels(logits, deltas, parameters, geometry, runs=WARM_UP + runs)
    for last_array, first_array in zip(run.detections, first.detections, strict=True):
        if last_array.tobytes() != first_array.tobytes():
            raise ValueError("kernels: expected the same bits from every run, got different ones")
    counted = run.milliseconds[WARM_UP:]
    sums = counted.sum(axis=1)
    logit_bytes = sum(head.nbytes for head in logits)
    parts = zip(("filter", "select", "nms"), np.median(counted, axis=0), strict=True)
    passed = sum(int(np.count_nonzero(head > parameters[0])) for head in logits)
    return {
        **Times.of(sums.tolist()).row(),
        **{f"{name}_ms": round(float(part), 5) for name, part in parts},
        "p99_ms": round(float(np.percentile(sums, 99)), 5),
        "megabytes_of_logits": round(logit_bytes / 1e6, 2),
        "gigabytes_per_second": round(logit_bytes / 1e6 / float(np.median(sums)), 1),
        "caches": "cold",
        "candidates": passed,
        "detections": int(run.detections.num_detections.sum()),
    }


def _check_against_specification(
    run: KernelRun,
    contract: DetectorContract,
    logits: list[npt.NDArray[Any]],
    deltas: list[npt.NDArray[Any]],
) -> None:
    """Compare the first image's detections with the specification's; raise AssertionError with the difference."""
    expected = detections_of([head[:1] for head in (*logits, *deltas)], contract)
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
    """Make random heads, class logits and box deltas of each level.

    A batch repeats up to four different images, because random numbers for 32 would take longer than everything else.
    """
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
    table = Table(
        "candidate", "classes", "batch", "type", "ms", "times as fast", "Filter", "Select", "NMS", "detections"
    )
    for row in figures:
        named = (row["candidate"], *(str(row.get(name, "")) for name in ("classes", "batch", "type")))
        cells = [f"{row[name]:.4f}" if name in row else "" for name in ("ms", "filter_ms", "select_ms", "nms_ms")]
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        table.add_row(*named, cells[0], ratio, *cells[1:], row.get("not_run") or str(row["detections"]))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
