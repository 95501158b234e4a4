"""Before a model is written: does ONNX Runtime give what torch gives, on real images?

In two steps, so that both can be strict. First the raw heads, torch against ONNX Runtime. Then the file itself
against the specification (``engines.plugins.specification``) on ONNX Runtime's own heads. Comparing torch's final
detections with the file's would need slack for every pair of boxes whose overlap lies on the threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from engines.core.contract import DetectorContract
from engines.core.executor import RawDetections
from engines.core.tensor_names import INPUT, OUTPUTS, head_names
from engines.onnx.deployable import postprocess_only
from engines.plugins.parameters import pack_parameters
from engines.plugins.specification import postprocess
from export.errors import ExportError

Images = npt.NDArray[np.uint8]
Arrays = list[npt.NDArray[np.float32]]

# Of the greatest value in the tensor. Measured on R18 and R50: 2e-6, from convolutions summed in another order.
HEAD_TOLERANCE = 1e-4
# Weights rounded to float16 are off by up to 2^-11 each; measured on R18 and R50: below 2e-3. It catches storage
# gone wrong, not rounding.
HALF_HEAD_TOLERANCE = 2e-2
# The same float32 steps on the same numbers; only exp differs, in the last place of sides up to 50,000 pixels.
BOX_TOLERANCE = 0.02
# One rational approximation of the sigmoid against another.
SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Agreement:
    """Greatest differences found.

    Attributes:
        logits: class logits, torch against the file's network.
        deltas: box deltas, torch against the file's network.
        boxes: input pixels, specification against the file.
        scores: specification against the file.
        detections: how many were compared.
        images: how many they were found in.
    """

    logits: float
    deltas: float
    boxes: float
    scores: float
    detections: int
    images: int


def verify(
    reference: Callable[[Images], Arrays],
    exported: onnx.ModelProto,
    stored: onnx.ModelProto,
    deployable: bytes,
    contract: DetectorContract,
    images: Images,
    *,
    batch: int | None,
) -> Agreement:
    """Compares a deployable ONNX with the network it was made of.

    Args:
        reference: the torch side: the raw heads of letterboxed images.
        exported: its ONNX, raw heads out.
        stored: the same as it is stored in the deployable: ``exported``, or with half weights.
        deployable: the file's content.
        images: uint8 [n, height, width, 3], BGR, letterboxed.
        batch: the deployable's batch size, None if it is open.

    Raises:
        ExportError: they differ by more than the tolerances above.
    """
    batches = list(batches_of(images, batch))
    expected = [reference(chunk) for chunk in batches]
    difference = _compare_heads(expected, onnx_heads(exported, batches), contract, HEAD_TOLERANCE, "")
    heads = onnx_heads(stored, batches)
    if stored is not exported:
        difference = _compare_heads(expected, heads, contract, HALF_HEAD_TOLERANCE, ", half weights")
    session = _session(deployable)
    found = [RawDetections(*session.run(OUTPUTS, {INPUT: chunk})) for chunk in batches]
    boxes, scores, detections = compare_with_specification(heads, found, contract, len(images))
    return Agreement(*difference, boxes, scores, detections, len(images))


def compare_with_specification(
    heads: Sequence[Arrays], found: Sequence[RawDetections], contract: DetectorContract, count: int
) -> tuple[float, float, int]:
    """Greatest differences of boxes (pixels) and scores between a file and the specification, and detections found.

    Args:
        heads: raw heads of each batch.
        found: the file's detections of each batch.
        count: images; what goes beyond them filled up the last batch.

    Raises:
        ExportError: they differ by more than the tolerances above.
    """
    agreements = [
        _compare_detections(_specification(level_heads, contract), detections)
        for level_heads, detections in zip(heads, found, strict=True)
    ]
    boxes, scores, counts = zip(*agreements, strict=True)
    return max(boxes), max(scores), int(np.concatenate(counts)[:count].sum())


def postprocessed(deployable: onnx.ModelProto, heads: Sequence[Arrays]) -> list[RawDetections]:
    """What a file's own Decode and NMS make of given raw heads, batch by batch.

    For files in other precisions: ONNX Runtime on a CPU computes in float32 between two roundings, and which of them
    it leaves out depends on what follows, so that the heads inside the file are not quite those of its network alone.
    """
    model = postprocess_only(deployable)
    session = _session(model.SerializeToString())
    types = [np.float16 if "float16" in item.type else np.float32 for item in session.get_inputs()]
    names = [item.name for item in session.get_inputs()]
    return [
        RawDetections(
            *session.run(
                OUTPUTS, {name: head.astype(kind) for name, kind, head in zip(names, types, batch, strict=True)}
            )
        )
        for batch in heads
    ]


def batches_of(images: Images, batch: int | None) -> Iterator[Images]:
    """Batches of the fixed size, the last one filled up; with an open size, batches of two and of one."""
    sizes = itertools.repeat(batch) if batch else itertools.cycle((2, 1))
    start = 0
    while start < len(images):
        size = next(sizes)
        yield images[np.arange(start, start + size) % len(images)]
        start += size


def onnx_heads(model: onnx.ModelProto, batches: Sequence[Images]) -> list[Arrays]:
    """Raw heads of each batch, in float32 whatever the network ends in."""
    session = _session(model.SerializeToString(), optimized=not _is_quantized_half(model))
    return [[head.astype(np.float32) for head in session.run(None, {INPUT: images})] for images in batches]


def _is_quantized_half(model: onnx.ModelProto) -> bool:
    """INT8 in float16, which ONNX Runtime has to leave as it is; see ``engines.onnx.onnx_executor``."""
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    halves = {item.name for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT16}
    return bool(scales & halves)


def timed_heads(model: onnx.ModelProto, images: Images) -> Callable[[], float]:
    """A function that runs the network on one batch and gives the seconds it took; it has run once already."""
    session = _session(model.SerializeToString())
    session.run(None, {INPUT: images})

    def run() -> float:
        start = perf_counter()
        session.run(None, {INPUT: images})
        return perf_counter() - start

    return run


def _session(content: bytes, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _specification(heads: Arrays, contract: DetectorContract) -> RawDetections:
    levels = len(contract.levels)
    return postprocess(
        heads[:levels],
        heads[levels:],
        pack_parameters(contract),
        num_classes=contract.num_classes,
        top_k=contract.top_k,
        max_detections=contract.max_detections,
    )


def _compare_heads(
    expected: list[Arrays], found: list[Arrays], contract: DetectorContract, tolerance: float, note: str
) -> tuple[float, float]:
    """Greatest difference of class logits and of box deltas."""
    greatest = {"cls": 0.0, "box": 0.0}
    for ours, theirs in zip(expected, found, strict=True):
        for name, torch_head, onnx_head in zip(head_names(len(contract.levels)), ours, theirs, strict=True):
            if not np.isfinite(torch_head).all():
                raise ExportError(f"{name}: expected finite numbers from the model in torch, got NaN or inf")
            difference = float(np.abs(torch_head - onnx_head).max())
            allowed = tolerance * max(1.0, float(np.abs(torch_head).max()))
            if not difference <= allowed:
                raise ExportError(
                    f"raw head {name}{note}: expected torch and ONNX Runtime to differ by at most {allowed:.2g}, "
                    f"found {difference:.2g}; the ONNX was not written"
                )
            kind = name[:3]
            greatest[kind] = max(greatest[kind], difference)
    return greatest["cls"], greatest["box"]


def _compare_detections(expected: RawDetections, found: RawDetections) -> tuple[float, float, npt.NDArray[np.int32]]:
    """Greatest difference of boxes and of scores, and how many detections each image has."""
    for name in ("num_detections", "labels"):
        ours, theirs = getattr(expected, name), getattr(found, name)
        if not np.array_equal(ours, theirs):
            where = tuple(int(i) for i in np.argwhere(ours != theirs)[0])
            raise ExportError(
                f"{name} at {list(where)}: expected {ours[where]} by the specification, found {theirs[where]} "
                "in the ONNX; it was not written"
            )
    differences = []
    for name, tolerance in (("boxes", BOX_TOLERANCE), ("scores", SCORE_TOLERANCE)):
        difference = float(np.abs(getattr(expected, name) - getattr(found, name)).max())
        if not difference <= tolerance:
            raise ExportError(
                f"{name}: expected the ONNX within {tolerance} of the specification, found {difference:.2g}; "
                "it was not written"
            )
        differences.append(difference)
    return differences[0], differences[1], expected.num_detections
