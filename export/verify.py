"""Verify a model before it is written: ONNX Runtime must agree with torch on real images.

The verification has two steps, so that both can be strict. The first step compares the raw heads of torch and ONNX
Runtime. The second step compares the detections of the file with those of the specification
(``engines.plugins.specification``), both computed from ONNX Runtime's raw heads. A direct comparison of the detections
of torch and of the file would need tolerance for each pair of boxes with an IoU near the threshold.
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
from engines.onnx.session import open_session, run_session
from engines.plugins.specification import detections_of
from export.errors import ExportError

Images = npt.NDArray[np.uint8]
Arrays = list[npt.NDArray[np.float32]]

# Tolerance of raw heads, relative to the largest value of the tensor. The difference measured on R18 and R50 is 2e-6,
# because convolutions sum in another order.
HEAD_TOLERANCE = 1e-4
# The same with weights in float16, each of which rounding changes by up to 2^-11. The difference measured on R18 and
# R50 is below 2e-3. The tolerance is meant to detect weights that were stored wrongly, not rounding.
HALF_HEAD_TOLERANCE = 2e-2
# Tolerance of boxes, input pixels. Both sides compute the same float32 steps on the same numbers. Only exp differs, in
# the last place of sides of up to 50,000 pixels.
BOX_TOLERANCE = 0.02
# Tolerance of scores. The two sides approximate the sigmoid by different rational functions.
SCORE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Agreement:
    """The largest differences between torch, an ONNX file and the specification.

    Attributes:
        logits: largest difference of class logits between torch and the file's network.
        deltas: largest difference of box deltas between torch and the file's network.
        boxes: largest difference of boxes between the specification and the file, input pixels.
        scores: largest difference of scores between the specification and the file.
        detections: number of detections compared.
        images: number of images compared.
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
    """Compare a deployable ONNX with the torch network it was exported from.

    Args:
        reference: function from letterboxed images to the raw heads of the torch network.
        exported: ONNX network that returns raw heads.
        stored: the network as the deployable ONNX stores it: ``exported`` itself, or ``exported`` with half weights.
        deployable: content of the deployable ONNX file.
        contract: contract of the detector.
        images: letterboxed images, uint8 [n, height, width, 3], BGR.
        batch: batch size of the deployable ONNX; None for any size.

    Returns:
        The largest differences.

    Raises:
        ExportError: if a difference exceeds its tolerance.
    """
    batches = list(batches_of(images, batch))
    expected = [reference(chunk) for chunk in batches]
    difference = _compare_heads(expected, onnx_heads(exported, batches), contract, HEAD_TOLERANCE, "")
    heads = onnx_heads(stored, batches)
    if stored is not exported:
        difference = _compare_heads(expected, heads, contract, HALF_HEAD_TOLERANCE, ", half weights")
    session = _session(deployable)
    actual = [RawDetections(*run_session(session, OUTPUTS, {INPUT: chunk})) for chunk in batches]
    boxes, scores, detections = compare_with_specification(heads, actual, contract, len(images))
    return Agreement(*difference, boxes, scores, detections, len(images))


def compare_with_specification(
    heads: Sequence[Arrays], actual: Sequence[RawDetections], contract: DetectorContract, count: int
) -> tuple[float, float, int]:
    """Compare the detections of an ONNX file with those that the specification computes from the same raw heads.

    Args:
        heads: raw heads of each batch.
        actual: detections of the file for each batch.
        contract: contract of the detector.
        count: number of images. Further rows of the last batch are repeated images that fill the batch.

    Returns:
        The largest difference of boxes in input pixels, the largest difference of scores, and the number of detections
        in the first ``count`` images.

    Raises:
        ExportError: if a difference exceeds its tolerance.
    """
    agreements = [
        _compare_detections(detections_of(level_heads, contract), detections)
        for level_heads, detections in zip(heads, actual, strict=True)
    ]
    boxes, scores, counts = zip(*agreements, strict=True)
    return max(boxes), max(scores), int(np.concatenate(counts)[:count].sum())


def postprocessed(deployable: onnx.ModelProto, heads: Sequence[Arrays]) -> list[RawDetections]:
    """Run Decode and NMS of a deployable ONNX on given raw heads, and return the detections of each batch.

    This function is for the verification of files in lower precision. On a CPU, ONNX Runtime computes such files in
    float32 and rounds in between. It omits some of the roundings, depending on the nodes that follow, so the raw heads
    inside the file differ slightly from those of its network alone.
    """
    model = postprocess_only(deployable)
    session = _session(model.SerializeToString())
    types = [np.float16 if "float16" in item.type else np.float32 for item in session.get_inputs()]
    names = [item.name for item in session.get_inputs()]
    return [
        RawDetections(
            *run_session(
                session,
                OUTPUTS,
                {name: head.astype(kind) for name, kind, head in zip(names, types, batch, strict=True)},
            )
        )
        for batch in heads
    ]


def batches_of(images: Images, batch: int | None) -> Iterator[Images]:
    """Yield the images in batches.

    Args:
        images: letterboxed images, uint8 [n, height, width, 3], BGR.
        batch: batch size; repeated images fill the last batch. None for batches of two and of one in turn, to test that
            the model takes any size.

    Examples:
        >>> images = np.zeros((5, 64, 64, 3), np.uint8)
        >>> [len(batch) for batch in batches_of(images, 2)], [len(batch) for batch in batches_of(images, None)]
        ([2, 2, 2], [2, 1, 2])
    """
    sizes = itertools.repeat(batch) if batch else itertools.cycle((2, 1))
    start = 0
    while start < len(images):
        size = next(sizes)
        yield images[np.arange(start, start + size) % len(images)]
        start += size


def onnx_heads(model: onnx.ModelProto, batches: Sequence[Images]) -> list[Arrays]:
    """Run a network and return the raw heads of each batch, converted to float32."""
    session = _session(model.SerializeToString(), optimized=not _is_quantized_half(model))
    return [[head.astype(np.float32) for head in run_session(session, None, {INPUT: images})] for images in batches]


def _is_quantized_half(model: onnx.ModelProto) -> bool:
    """True if the network is INT8 with float16 scales.

    ONNX Runtime must not optimize such a network; ``engines.onnx.onnx_executor`` says why.
    """
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    halves = {item.name for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT16}
    return bool(scales & halves)


def timed_heads(model: onnx.ModelProto, images: Images) -> Callable[[], float]:
    """Warm up a network, and return a function that runs it on one batch and returns the seconds that the run took."""
    session = _session(model.SerializeToString())
    run_session(session, None, {INPUT: images})

    def run() -> float:
        start = perf_counter()
        run_session(session, None, {INPUT: images})
        return perf_counter() - start

    return run


def _session(content: bytes, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(content, options)


def _compare_heads(
    expected: list[Arrays], actual: list[Arrays], contract: DetectorContract, tolerance: float, note: str
) -> tuple[float, float]:
    """Return the largest difference of class logits and of box deltas."""
    largest = {"cls": 0.0, "box": 0.0}
    names = head_names(len(contract.levels))
    for expected_batch, actual_batch in zip(expected, actual, strict=True):
        for name, torch_head, onnx_head in zip(names, expected_batch, actual_batch, strict=True):
            if not np.isfinite(torch_head).all():
                raise ExportError(
                    f"raw head {name}: expected finite numbers from the model in torch, got NaN or inf; train the "
                    "model again or use an earlier checkpoint"
                )
            difference = float(np.abs(torch_head - onnx_head).max())
            allowed = tolerance * max(1.0, float(np.abs(torch_head).max()))
            if not difference <= allowed:
                raise ExportError(
                    f"raw head {name}{note}: expected torch and ONNX Runtime to differ by at most {allowed:.2g}, "
                    f"got {difference:.2g}; the ONNX was not written"
                )
            kind = name[:3]
            largest[kind] = max(largest[kind], difference)
    return largest["cls"], largest["box"]


def _compare_detections(expected: RawDetections, actual: RawDetections) -> tuple[float, float, npt.NDArray[np.int32]]:
    """Return the largest difference of boxes and of scores, and the number of detections of each image."""
    for name in ("num_detections", "labels"):
        wanted, got = getattr(expected, name), getattr(actual, name)
        if not np.array_equal(wanted, got):
            index = tuple(int(i) for i in np.argwhere(wanted != got)[0])
            raise ExportError(
                f"{name} at {list(index)}: expected {wanted[index]} as in the specification, got {got[index]} from the "
                "ONNX; the ONNX was not written"
            )
    differences = []
    for name, tolerance in (("boxes", BOX_TOLERANCE), ("scores", SCORE_TOLERANCE)):
        difference = float(np.abs(getattr(expected, name) - getattr(actual, name)).max())
        if not difference <= tolerance:
            raise ExportError(
                f"{name}: expected the ONNX within {tolerance} of the specification, got a difference of "
                f"{difference:.2g}; the ONNX was not written"
            )
        differences.append(difference)
    return differences[0], differences[1], expected.num_detections
