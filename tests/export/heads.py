"""Small pyramids, random raw heads, and the three implementations of Decode and NMS: NumPy, ONNX and torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import boxes as torchvision_boxes

from engines.core.contract import DetectorContract, PyramidLevel
from engines.core.executor import RawDetections
from engines.core.tensor_names import CANDIDATES, DOMAIN, OUTPUTS, PARAMETERS, head_names
from engines.plugins.parameters import pack_parameters
from engines.plugins.specification import detections_of
from export.functions import OPSET, decode_function, nms_function

Floats = npt.NDArray[np.float32]

# All three compute the same float32 operations on the same numbers. Only exp differs between NumPy, ONNX Runtime and
# torch, in the last place: 2^-23 of sides of up to 3,000 pixels.
BOX_TOLERANCE = 1e-3
# The sigmoids are computed in different ways, each accurate to a few units in the last place.
SCORE_TOLERANCE = 5e-7

INPUT_SIZE = (160, 224)
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


class Heads(NamedTuple):
    """Raw heads of each level: class logits float32 [N, A * C, h, w] and box deltas float32 [N, A * 4, h, w]."""

    cls_logits: list[Floats]
    box_deltas: list[Floats]

    def image(self, n: int) -> Heads:
        """Return the raw heads of image ``n`` as a batch of one."""
        return Heads([x[n : n + 1] for x in self.cls_logits], [x[n : n + 1] for x in self.box_deltas])


def make_contract(
    *,
    num_classes: int = 3,
    num_levels: int = 3,
    top_k: int = 50,
    max_detections: int = 40,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    agnostic: bool = False,
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
) -> DetectorContract:
    """Return a contract whose pyramid begins at stride 16. Coarse levels have odd strides, as in torchvision."""
    height, width = INPUT_SIZE
    levels = []
    for i in range(num_levels):
        feature = (-(-height // (16 << i)), -(-width // (16 << i)))
        stride = (height // feature[0], width // feature[1])
        sizes = (float(24 << i), float(36 << i))
        levels.append(PyramidLevel(feature, stride, sizes, ratios))
    return DetectorContract(
        architecture="heads",
        input_size=INPUT_SIZE,
        class_names=tuple(f"c{n}" for n in range(num_classes)),
        category_ids=tuple(range(num_classes)),
        levels=tuple(levels),
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        top_k=top_k,
        max_detections=max_detections,
        agnostic=agnostic,
    )


def random_heads(
    contract: DetectorContract, *, seed: int, batch: int = 2, low: float = -8.0, high: float = 3.0
) -> Heads:
    """Return raw heads with distinct logits, spread evenly from ``low`` to ``high`` in random order.

    The logits are so far apart that their float32 sigmoids differ too, because torchvision sorts by the sigmoid.
    """
    rng = np.random.default_rng(seed)
    cls_logits, box_deltas = [], []
    sizes = [level.feature_size for level in contract.levels]
    anchors, classes = contract.num_anchors, contract.num_classes
    counts = [anchors * classes * height * width for height, width in sizes]
    images = [rng.permutation(np.linspace(low, high, sum(counts))) for _ in range(batch)]
    logits = np.array(images, np.float32)
    ends = np.cumsum(counts)
    for count, end, (height, width) in zip(counts, ends, sizes, strict=True):
        shape = (batch, anchors * classes, height, width)
        cls_logits.append(logits[:, end - count : end].reshape(shape).copy())
        deltas = rng.normal(0, 0.5, (batch, anchors * 4, height, width))
        box_deltas.append(deltas.astype(np.float32))
    return Heads(cls_logits, box_deltas)


def tied(heads: Heads, step: float = 0.5) -> Heads:
    """Round the logits to a coarse grid, so that many are equal, including zeros of both signs."""
    return Heads([np.round(level / step).astype(np.float32) * np.float32(step) for level in heads[0]], heads[1])


def untied(heads: Heads) -> Heads:
    """Move equal logits apart in the order of the specification: by level, then by flat index.

    The logit of rank ``r`` falls evenly with ``r``. An implementation that orders equal logits differently
    (torchvision), or in no defined order (torchvision's top-k), must then return the same detections.
    """
    flat = np.concatenate([level.reshape(len(level), -1) for level in heads.cls_logits], axis=1)
    order = np.argsort(-flat, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    spread = (3 - 11 * rank / flat.shape[1]).astype(np.float32)
    ends = np.cumsum([level[0].size for level in heads.cls_logits])
    levels = [spread[:, end - level[0].size : end] for level, end in zip(heads.cls_logits, ends, strict=True)]
    logits = [new.reshape(old.shape) for new, old in zip(levels, heads.cls_logits, strict=True)]
    return Heads(logits, heads.box_deltas)


def specification(contract: DetectorContract, heads: Heads) -> RawDetections:
    """Run ``engines.plugins.specification`` on raw heads."""
    return detections_of([*heads.cls_logits, *heads.box_deltas], contract)


def functions_session(
    contract: DetectorContract, *, batch: int | str = "N", head_type: int = FLOAT
) -> onnxruntime.InferenceSession:
    """Return a session of an ONNX with only the nodes Decode and NMS; its inputs are the raw heads and parameters."""
    names = head_names(len(contract.levels))
    rows = [contract.num_classes] * len(contract.levels) + [4] * len(contract.levels)
    inputs = [
        onnx.helper.make_tensor_value_info(name, head_type, [batch, contract.num_anchors * row, *level.feature_size])
        for name, row, level in zip(names, rows, contract.levels * 2, strict=True)
    ]
    length = len(pack_parameters(contract))
    inputs.append(onnx.helper.make_tensor_value_info(PARAMETERS, FLOAT, [length]))
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in (*OUTPUTS, *CANDIDATES)]
    nodes = [
        onnx.helper.make_node("Decode", [*names, PARAMETERS], CANDIDATES, domain=DOMAIN),
        onnx.helper.make_node("NMS", [*CANDIDATES, PARAMETERS], OUTPUTS, domain=DOMAIN),
    ]
    graph = onnx.helper.make_graph(nodes, "heads", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, 1)]
    functions = [decode_function(contract), nms_function(contract)]
    model = onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run_functions(session: onnxruntime.InferenceSession, contract: DetectorContract, heads: Heads) -> RawDetections:
    """Run a session of ``functions_session`` and return the detections."""
    return RawDetections(*session.run(OUTPUTS, feeds(contract, heads)))


def feeds(contract: DetectorContract, heads: Heads) -> dict[str, npt.NDArray[np.floating]]:
    """Return the inputs of a session of ``functions_session``."""
    names = head_names(len(contract.levels))
    tensors = [*heads.cls_logits, *heads.box_deltas]
    return {**dict(zip(names, tensors, strict=True)), PARAMETERS: pack_parameters(contract)}


def network_of_heads(contract: DetectorContract, heads: Heads, *, batch: int | str) -> onnx.ModelProto:
    """Return an ONNX network without convolutions that outputs the raw heads of one image for every image.

    A hundredth of the blue value of the upper left pixel is added to all logits, so that images differ.
    """
    names = head_names(len(contract.levels))
    inputs = [onnx.helper.make_tensor_value_info("images", UINT8, [batch, *contract.input_size, 3])]
    nodes = [
        onnx.helper.make_node("Slice", ["images", "first", "second", "axes"], ["blue"]),
        onnx.helper.make_node("Cast", ["blue"], ["blue_float"], to=FLOAT),
        onnx.helper.make_node("Mul", ["blue_float", "hundredth"], ["cls_shift"]),
        onnx.helper.make_node("Mul", ["blue_float", "zero"], ["box_shift"]),
        *(onnx.helper.make_node("Add", [f"{name}_base", f"{name[:3]}_shift"], [name]) for name in names),
    ]
    tensors = dict(zip(names, (*heads.cls_logits, *heads.box_deltas), strict=True))
    constants: dict[str, npt.NDArray[Any]] = {
        "first": np.zeros(3, np.int64),
        "second": np.ones(3, np.int64),
        "axes": np.array([1, 2, 3]),
        "hundredth": np.array([0.01], np.float32),
        "zero": np.array([0], np.float32),
        **{f"{name}_base": tensor for name, tensor in tensors.items()},
    }
    outputs = [
        onnx.helper.make_tensor_value_info(name, FLOAT, [batch, *tensor.shape[1:]]) for name, tensor in tensors.items()
    ]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "heads", inputs, outputs, initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)


def torchvision_anchors(contract: DetectorContract) -> list[Tensor]:
    """Return the anchors of each level from torchvision's generator: float [h * w * A, 4], xyxy, input pixels."""
    sizes = tuple(level.anchor_sizes for level in contract.levels)
    ratios = tuple(level.aspect_ratios for level in contract.levels)
    maps = [torch.zeros(1, 1, *level.feature_size) for level in contract.levels]
    images = ImageList(torch.zeros(1, 3, *contract.input_size), [contract.input_size])
    anchors: Tensor = AnchorGenerator(sizes, ratios)(images, maps)[0]
    return list(torch.split(anchors, [m[0, 0].numel() * contract.num_anchors for m in maps]))


def torchvision_detections(
    contract: DetectorContract, heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Tensor]]:
    """Run torchvision's own post-processing, and return boxes, scores and labels of each image.

    With fewer than 1,000 candidates, torchvision separates the classes by an offset of hundreds of pixels, which rounds
    the boxes. With more, it suppresses each class separately, as this project does. The patch makes torchvision always
    suppress each class separately, or for class-agnostic NMS, all classes together.
    """

    def together(boxes: Tensor, scores: Tensor, _: Tensor, iou_threshold: float) -> Tensor:
        kept: Tensor = torchvision_boxes.nms(boxes, scores, iou_threshold)
        return kept

    separately = torchvision_boxes._batched_nms_vanilla
    for name in ("_batched_nms_coordinate_trick", "_batched_nms_vanilla"):
        monkeypatch.setattr(torchvision_boxes, name, together if contract.agnostic else separately)
    settings = SimpleNamespace(
        score_thresh=contract.score_threshold,
        nms_thresh=contract.iou_threshold,
        topk_candidates=contract.top_k,
        detections_per_img=contract.max_detections,
        box_coder=RetinaNet.__annotations__["box_coder"](weights=(1.0, 1.0, 1.0, 1.0)),
    )
    batch = len(heads.cls_logits[0])
    outputs = {
        "cls_logits": [_rows(level, contract.num_classes) for level in heads.cls_logits],
        "bbox_regression": [_rows(level, 4) for level in heads.box_deltas],
    }
    anchors = [torchvision_anchors(contract)] * batch
    sizes = [contract.input_size] * batch
    detections: list[dict[str, Tensor]] = RetinaNet.postprocess_detections(settings, outputs, anchors, sizes)
    return detections


def _rows(head: Floats, columns: int) -> Tensor:
    """Convert a head from [N, A * columns, h, w] to torchvision's [N, h * w * A, columns]."""
    batch, _, height, width = head.shape
    rows = torch.from_numpy(head).view(batch, -1, columns, height, width).permute(0, 3, 4, 1, 2)
    return rows.reshape(batch, -1, columns)


def assert_equal_detections(actual: RawDetections, expected: RawDetections) -> None:
    """Check that counts and labels are equal, boxes and scores within the tolerances, and rows past the count zero."""
    np.testing.assert_array_equal(actual.num_detections, expected.num_detections)
    np.testing.assert_array_equal(actual.labels, expected.labels)
    np.testing.assert_allclose(actual.boxes, expected.boxes, rtol=0, atol=BOX_TOLERANCE)
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=0, atol=SCORE_TOLERANCE)
    for a, b in zip(actual, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    for n, count in enumerate(actual.num_detections):
        assert not actual.boxes[n, count:].any()
        assert not actual.scores[n, count:].any()
        assert not actual.labels[n, count:].any()


def assert_torchvision_agrees(actual: RawDetections, expected: Sequence[dict[str, Tensor]]) -> None:
    """Check that counts and labels equal torchvision's, and boxes and scores are within the tolerances."""
    assert len(actual.num_detections) == len(expected)
    for n, image in enumerate(expected):
        count = actual.num_detections[n]
        np.testing.assert_array_equal(actual.labels[n, :count], image["labels"].numpy())
        np.testing.assert_allclose(actual.boxes[n, :count], image["boxes"].numpy(), rtol=0, atol=BOX_TOLERANCE)
        np.testing.assert_allclose(actual.scores[n, :count], image["scores"].numpy(), rtol=0, atol=SCORE_TOLERANCE)
