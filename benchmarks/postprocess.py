"""Raw heads to detections, at 800×800 with 9 anchors a position.

    python -m benchmarks.postprocess

On a CPU: the NumPy specification and the ONNX functions against torchvision's own, on the heads of torchvision's R50
with random weights. On a GPU: the three kernels and torchvision's there, on random heads of which about as many pass as
on a photograph. Each case of the kernels is first held against the specification and against its own first run, bit
for bit; a wrong kernel has no speed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from torchvision.ops import batched_nms

from benchmarks.networks import lively_r50
from benchmarks.peers import torchvision_postprocess
from benchmarks.record import interleaved, save
from engines.contract import DetectorContract, PyramidLevel
from engines.graph import heads_only, postprocess_only
from engines.letterbox import letterbox_batch
from engines.machine import this_machine
from engines.names import INPUT, OUTPUTS, head_names
from engines.plugins.kernels import run_kernels
from engines.plugins.launch import Geometry
from engines.plugins.parameters import pack_parameters, unpack_parameters
from engines.plugins.reference import decode, postprocess
from export.deployable import export_onnx
from retina_edge.image_file import read_image
from retina_edge.model.torchvision_checkpoint import convert
from retina_edge.sample import FOREST

SIDE = 800
# Feature sizes and strides of torchvision's RetinaNet at this input.
LEVELS = ((100, 8), (50, 16), (25, 32), (13, 61), (7, 114))
SIZES = (32, 64, 128, 256, 512)
# A normal distribution of logits of which one in 6,000 passes the threshold of 0.05.
MEAN, SPREAD = -6.5, 1.0
WARM_UP = 5
TORCHVISION, NMS_ALONE = "torchvision postprocess_detections", "torchvision batched_nms alone"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50, help="counted runs of each case (default: 50)")
    runs = parser.parse_args(argv).runs
    console = Console()
    figures: dict[str, list[dict[str, Any]]] = {"cpu": _on_the_cpu(runs), "gpu": []}
    table = Table("on the CPU", "ms", "times as fast", "detections")
    for row in figures["cpu"]:
        table.add_row(row["candidate"], f"{row['ms']:.2f}", f"{row['ratio']:.2f}", str(row["detections"]))
    console.print(table)
    if this_machine().gpu:
        figures["gpu"] = _on_the_gpu(console, runs)
    console.print(f"written to {save('postprocess', figures).name}")
    return 0


def _on_the_cpu(runs: int) -> list[dict[str, Any]]:
    peer, frame = lively_r50(SIDE), read_image(FOREST)[:SIDE, :SIDE]
    checkpoint = convert(peer.state_dict(), "retinanet_resnet50_fpn", input_size=(SIDE, SIDE))
    contract = checkpoint.contract
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r50.onnx"
        export_onnx(checkpoint.build_model(), contract, path, batch=1, images=[frame])
        deployable = onnx.load(path)
    images, _ = letterbox_batch([frame], (SIDE, SIDE))
    names = head_names(len(contract.levels))
    heads = dict(zip(names, _session(heads_only(deployable)).run(names, {INPUT: images}), strict=True))
    functions = _session(postprocess_only(deployable))
    levels = len(contract.levels)
    arrays, parameters = list(heads.values()), pack_parameters(contract)
    sizes = {"num_classes": contract.num_classes, "top_k": contract.top_k}
    theirs, tensors = torchvision_postprocess(peer, SIDE), [torch.from_numpy(array) for array in arrays]
    candidates: dict[str, Callable[[], npt.NDArray[Any]]] = {
        TORCHVISION: lambda: np.asarray(theirs(tensors)["scores"]),
        "ONNX functions": lambda: functions.run(OUTPUTS, heads)[2][0],
        "NumPy specification": lambda: postprocess(
            arrays[:levels], arrays[levels:], parameters, **sizes, max_detections=contract.max_detections
        ).scores[0],
    }
    # A part of the way only, for what it is worth: candidates are chosen and decoded already.
    single = [array[0] for array in arrays]
    chosen = decode(single[:levels], single[levels:], unpack_parameters(parameters, levels), **sizes)
    scores, boxes, labels = (torch.from_numpy(array) for array in chosen)
    candidates[NMS_ALONE] = lambda: np.asarray(batched_nms(boxes, scores, labels, contract.iou_threshold)) + 1
    times = interleaved(candidates, rounds=runs)
    return [
        {
            "candidate": name,
            "ms": round(ms, 3),
            "ratio": round(times[TORCHVISION] / ms, 3),
            "detections": int(np.count_nonzero(candidates[name]())),
        }
        for name, ms in times.items()
    ]


def _on_the_gpu(console: Console, runs: int) -> list[dict[str, Any]]:
    rows = []
    table = Table("classes", "batch", "type", "Filter", "Select", "NMS", "all, ms", "torchvision, ms", "GB/s of logits")
    for classes in (1, 91):
        for half in (True, False):
            for batch in (1, 8, 32):
                row = _measure(classes, batch, half=half, runs=runs)
                rows.append(row)
                names = ("filter_ms", "select_ms", "nms_ms", "ms", "torchvision_ms")
                times = [f"{row[name]:.4f}" if row.get(name) else "" for name in names]
                table.add_row(str(classes), str(batch), row["type"], *times, f"{row['gigabytes_per_second']:.0f}")
    console.print(table)
    return rows


def _torchvision_on_the_gpu(logits: list[npt.NDArray[Any]], deltas: list[npt.NDArray[Any]], runs: int) -> float:
    """Median milliseconds for one image, by the GPU's clock."""
    run = torchvision_postprocess(lively_r50(SIDE).cuda(), SIDE)
    heads = [torch.from_numpy(head[:1].astype(np.float32)).cuda() for head in (*logits, *deltas)]
    make: Callable[[], Any] = partial(torch.cuda.Event, enable_timing=True)
    events = [(make(), make()) for _ in range(WARM_UP + runs)]
    for begun, ended in events:
        begun.record()
        run(heads)
        ended.record()
    torch.cuda.synchronize()
    return float(np.median([begun.elapsed_time(ended) for begun, ended in events[WARM_UP:]]))


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
    compared = classes == 91 and batch == 1 and torch.cuda.is_available()
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
        **({"torchvision_ms": round(_torchvision_on_the_gpu(logits, deltas, runs), 5)} if compared else {}),
        "detections": int(run.detections.num_detections.sum()),
        "runs": runs,
    }


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
