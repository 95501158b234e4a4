"""Decode and NMS as model-local ONNX functions: ``retina_edge::Decode`` and ``retina_edge::NMS``.

The functions are written in ONNX's text syntax and use only standard operators of opset 18. ONNX Runtime therefore runs
the file as it is, and TensorRT can replace each function by a plugin. The functions follow the steps of
``engines.plugins.specification`` in the same order, so that the same candidates win.

Thresholds, anchors and strides are read from the parameter tensor (``engines.plugins.parameters``), which can be
replaced without changing the functions. Sizes are constants in the functions.

The functions rely on these properties of ONNX Runtime's operators:
- TopK returns equal values in the order of their indices.
- NonMaxSuppression compares the IoU with ``>``, takes equal scores in the order of their indices, and skips scores that
  do not exceed ``score_threshold``. In it, boxes without an area suppress nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx.parser

from engines.core.contract import DetectorContract, PyramidLevel
from engines.core.tensor_names import DOMAIN, PARAMETERS, head_names
from engines.plugins.parameters import HEADER

DOMAIN_VERSION = 1
OPSET = 18

MINUS_INFINITY = "minus_infinity = Constant <value = float {-inf}> ()"
ZERO = "zero = Constant <value = float {0.0}> ()"


def decode_function(contract: DetectorContract) -> onnx.FunctionProto:
    """Return the function ``Decode``, which turns raw heads into candidates.

    Inputs, for L levels with A anchors and C classes:
        cls_0 … cls_L-1: class logits, float or half [N, A * C, h, w].
        box_0 … box_L-1: box deltas, float or half [N, A * 4, h, w].
        parameters: parameter tensor, float32 [8 + 4 L A + 2 L].

    Outputs, ordered by level, and on each level with the best candidate first. M is the sum over the levels of
    min(top_k, A * C * h * w). In rows without a candidate, boxes and labels are undefined:
        logits: class logits, float32 [N, M]; minus infinity in rows without a candidate.
        boxes: boxes, float32 [N, M, 4], xyxy, input pixels, clipped to the input.
        labels: labels, int32 [N, M].

    Examples:
        >>> from engines.core.contract import PyramidLevel
        >>> levels = (PyramidLevel((4, 4), (16, 16), anchor_sizes=(32.0,), aspect_ratios=(1.0,)),)
        >>> function = decode_function(DetectorContract("demo", (64, 64), ("tree",), (1,), levels))
        >>> list(function.input), list(function.output)
        (['cls_0', 'box_0', 'parameters'], ['logits', 'boxes', 'labels'])
    """
    lines = [
        *_decode_parameters(contract),
        MINUS_INFINITY,
        ZERO,
        "half = Constant <value = float {0.5}> ()",
        _ints("image_rows", [0, -1]),
        _ints("box_rows", [0, -1, 4]),
        _ints("two_pairs", [2, 2]),
        _ints("last_axis", [-1]),
    ]
    for index, level in enumerate(contract.levels):
        lines += _candidates(index, level, contract)
        lines += _positions(index, level, contract.num_classes)
        lines += _anchors(index)
        lines += _deltas(index, level)
        lines += _boxes(index)
    for output in ("logits", "boxes", "labels"):
        lines.append(f"{output} = Concat <axis = 1> ({_joined(f'{output}_{i}' for i in range(len(contract.levels)))})")
    inputs = [*head_names(len(contract.levels)), PARAMETERS]
    return _function("Decode", inputs, ["logits", "boxes", "labels"], lines)


def nms_function(contract: DetectorContract) -> onnx.FunctionProto:
    """Return the function ``NMS``, which turns candidates into detections.

    Inputs: ``logits``, ``boxes`` and ``labels`` from Decode, and ``parameters``.

    Outputs, with K for ``max_detections``; rows past ``num_detections`` are zero:
        num_detections: number of detections, int32 [N].
        best_boxes: boxes, float32 [N, K, 4], xyxy, input pixels.
        best_scores: scores, float32 [N, K], descending.
        best_labels: labels, int32 [N, K].

    Examples:
        >>> from engines.core.contract import PyramidLevel
        >>> levels = (PyramidLevel((4, 4), (16, 16), anchor_sizes=(32.0,), aspect_ratios=(1.0,)),)
        >>> function = nms_function(DetectorContract("demo", (64, 64), ("tree",), (1,), levels))
        >>> list(function.output)
        ['num_detections', 'best_boxes', 'best_scores', 'best_labels']
    """
    lines = [
        *_nms_parameters(contract),
        MINUS_INFINITY,
        ZERO,
        _ints("first_axis", [1]),
        _ints("last_axis", [-1]),
        *_suppress(contract.num_classes, contract.max_detections),
        *_best(min(contract.max_detections, num_candidates(contract)), contract.max_detections),
    ]
    outputs = ["num_detections", "best_boxes", "best_scores", "best_labels"]
    return _function("NMS", ["logits", "boxes", "labels", PARAMETERS], outputs, lines)


def num_candidates(contract: DetectorContract) -> int:
    """Return the number of candidates that Decode returns for each image.

    Examples:
        >>> from engines.core.contract import PyramidLevel
        >>> levels = [PyramidLevel((n, n), (64 // n, 64 // n), (256 / n,), (1.0,)) for n in (8, 4)]
        >>> num_candidates(DetectorContract("demo", (64, 64), ("tree",), (1,), tuple(levels), top_k=50))
        66
    """
    return sum(_level_top_k(level, contract) for level in contract.levels)


def _level_top_k(level: PyramidLevel, contract: DetectorContract) -> int:
    height, width = level.feature_size
    return min(contract.top_k, level.num_anchors * contract.num_classes * height * width)


def _decode_parameters(contract: DetectorContract) -> list[str]:
    levels, anchors = len(contract.levels), contract.num_anchors
    return [
        _ints("parameter_sizes", [1, 1, 1, 2, HEADER - 5, 4 * levels * anchors, 2 * levels]),
        "logit_threshold, iou_threshold, delta_clip, input_size, reserved, cells_row, strides_row = "
        "Split <axis = 0> (parameters, parameter_sizes)",
        _ints("cells_shape", [levels, anchors, 4]),
        "cells = Reshape(cells_row, cells_shape)",
        _ints("strides_shape", [levels, 2]),
        "strides = Reshape(strides_row, strides_shape)",
        "limits = Concat <axis = 0> (input_size, input_size)",
    ]


def _nms_parameters(contract: DetectorContract) -> list[str]:
    rest = HEADER - 6 + len(contract.levels) * (4 * contract.num_anchors + 2)
    return [
        _ints("parameter_sizes", [1, 1, 3, 1, rest]),
        "logit_threshold, iou_threshold, of_decode, agnostic, unused = Split <axis = 0> (parameters, parameter_sizes)",
    ]


def _candidates(i: int, level: PyramidLevel, contract: DetectorContract) -> list[str]:
    """Return lines that pick the best logits above the threshold. NaN fails the comparison, so it is not picked."""
    return [
        f"cls_{i}_float = Cast <to = 1> (cls_{i})",
        f"cls_{i}_flat = Reshape(cls_{i}_float, image_rows)",
        f"passes_{i} = Greater(cls_{i}_flat, logit_threshold)",
        f"passing_{i} = Where(passes_{i}, cls_{i}_flat, minus_infinity)",
        _ints(f"top_k_{i}", [_level_top_k(level, contract)]),
        f"logits_{i}, index_{i} = TopK <axis = 1> (passing_{i}, top_k_{i})",
    ]


def _positions(i: int, level: PyramidLevel, num_classes: int) -> list[str]:
    """Return lines that compute anchor, label, x and y from a flat index into [A, C, h, w]."""
    height, width = level.feature_size
    return [
        _int(f"cells_{i}", height * width),
        _int(f"classes_{i}", num_classes),
        _int(f"width_{i}", width),
        f"channel_{i} = Div(index_{i}, cells_{i})",
        f"position_{i} = Mod(index_{i}, cells_{i})",
        f"anchor_{i} = Div(channel_{i}, classes_{i})",
        f"label_{i} = Mod(channel_{i}, classes_{i})",
        f"labels_{i} = Cast <to = 6> (label_{i})",
        f"y_{i} = Div(position_{i}, width_{i})",
        f"x_{i} = Mod(position_{i}, width_{i})",
    ]


def _anchors(i: int) -> list[str]:
    """Return lines that compute the size and the center of each candidate's anchor."""
    return [
        _int(f"level_{i}", i),
        f"x_column_{i} = Unsqueeze(x_{i}, last_axis)",
        f"y_column_{i} = Unsqueeze(y_{i}, last_axis)",
        f"xy_{i} = Concat <axis = 2> (x_column_{i}, y_column_{i})",
        f"xy_float_{i} = Cast <to = 1> (xy_{i})",
        f"stride_{i} = Gather <axis = 0> (strides, level_{i})",
        f"shift_{i} = Mul(xy_float_{i}, stride_{i})",
        f"level_cells_{i} = Gather <axis = 0> (cells, level_{i})",
        f"cell_{i} = Gather <axis = 0> (level_cells_{i}, anchor_{i})",
        f"cell_low_{i}, cell_high_{i} = Split <axis = 2> (cell_{i}, two_pairs)",
        f"anchor_low_{i} = Add(shift_{i}, cell_low_{i})",
        f"anchor_high_{i} = Add(shift_{i}, cell_high_{i})",
        f"size_{i} = Sub(anchor_high_{i}, anchor_low_{i})",
        f"half_size_{i} = Mul(half, size_{i})",
        f"center_{i} = Add(anchor_low_{i}, half_size_{i})",
    ]


def _deltas(i: int, level: PyramidLevel) -> list[str]:
    """Return lines that gather the four deltas of each candidate from [A, 4, h, w], without a transpose."""
    cells = level.feature_size[0] * level.feature_size[1]
    return [
        _int(f"box_stride_{i}", 4 * cells),
        _ints(f"delta_offsets_{i}", [0, cells, 2 * cells, 3 * cells]),
        f"box_start_{i} = Mul(anchor_{i}, box_stride_{i})",
        f"first_delta_{i} = Add(box_start_{i}, position_{i})",
        f"first_delta_column_{i} = Unsqueeze(first_delta_{i}, last_axis)",
        f"delta_index_{i} = Add(first_delta_column_{i}, delta_offsets_{i})",
        f"delta_index_row_{i} = Reshape(delta_index_{i}, image_rows)",
        f"box_{i}_flat = Reshape(box_{i}, image_rows)",
        f"deltas_row_{i} = GatherElements <axis = 1> (box_{i}_flat, delta_index_row_{i})",
        f"deltas_float_{i} = Cast <to = 1> (deltas_row_{i})",
        f"deltas_{i} = Reshape(deltas_float_{i}, box_rows)",
        f"delta_xy_{i}, delta_wh_{i} = Split <axis = 2> (deltas_{i}, two_pairs)",
    ]


def _boxes(i: int) -> list[str]:
    """Return lines that apply deltas to anchors, in the specification's order of operations, and clip to the input."""
    return [
        f"move_{i} = Mul(delta_xy_{i}, size_{i})",
        f"new_center_{i} = Add(move_{i}, center_{i})",
        f"bounded_wh_{i} = Min(delta_wh_{i}, delta_clip)",
        f"growth_{i} = Exp(bounded_wh_{i})",
        f"new_size_{i} = Mul(growth_{i}, size_{i})",
        f"new_half_{i} = Mul(half, new_size_{i})",
        f"low_{i} = Sub(new_center_{i}, new_half_{i})",
        f"high_{i} = Add(new_center_{i}, new_half_{i})",
        f"unclipped_{i} = Concat <axis = 2> (low_{i}, high_{i})",
        f"not_negative_{i} = Max(unclipped_{i}, zero)",
        f"boxes_{i} = Min(not_negative_{i}, limits)",
    ]


def _suppress(num_classes: int, max_detections: int) -> list[str]:
    """Return lines that set the logits of suppressed candidates to minus infinity.

    NMS runs for each class separately. The usual trick, an offset that moves the boxes of different classes apart,
    would round the coordinates and so change the IoU. No class can contribute more than ``max_detections`` boxes. For
    class-agnostic NMS, all candidates are compared as the first class.
    """
    return [
        _ints("class_column_shape", [-1, 1]),
        _ints("class_row", range(num_classes)),
        "class_column = Reshape(class_row, class_column_shape)",
        "label_index = Cast <to = 7> (labels)",
        "is_agnostic = Greater(agnostic, zero)",
        _int("first_class", 0),
        "compared_index = Where(is_agnostic, first_class, label_index)",
        "label_rows = Unsqueeze(compared_index, first_axis)",
        "logit_rows = Unsqueeze(logits, first_axis)",
        "of_class = Equal(label_rows, class_column)",
        "class_logits = Where(of_class, logit_rows, minus_infinity)",
        _ints("most_a_class", [max_detections]),
        "survivors = NonMaxSuppression(boxes, class_logits, most_a_class, iou_threshold, logit_threshold)",
        _ints("image_and_candidate", [0, 2]),
        "survivor_index = Gather <axis = 1> (survivors, image_and_candidate)",
        "survivor_logits = GatherND(logits, survivor_index)",
        "candidates_shape = Shape(logits)",
        "nothing = Expand(minus_infinity, candidates_shape)",
        "surviving = ScatterND(nothing, survivor_index, survivor_logits)",
    ]


def _best(count: int, max_detections: int) -> list[str]:
    """Return lines that pick the ``count`` best survivors of each image, padded to ``max_detections`` with zeros."""
    lines = [
        _ints("found", [count]),
        "best_logits, best_index = TopK <axis = 1> (surviving, found)",
        "is_detection = Greater(best_logits, minus_infinity)",
        "is_detection_int = Cast <to = 6> (is_detection)",
        "num_detections = ReduceSum <keepdims = 0> (is_detection_int, first_axis)",
        "sigmoid = Sigmoid(best_logits)",
        "zero_label = Constant <value = int32 {0}> ()",
        "chosen_labels = GatherElements <axis = 1> (labels, best_index)",
        "best_index_column = Unsqueeze(best_index, last_axis)",
        "chosen_boxes = GatherND <batch_dims = 1> (boxes, best_index_column)",
        "is_detection_column = Unsqueeze(is_detection, last_axis)",
        "found_boxes = Where(is_detection_column, chosen_boxes, zero)",
        "found_scores = Where(is_detection, sigmoid, zero)",
        "found_labels = Where(is_detection, chosen_labels, zero_label)",
    ]
    missing = max_detections - count
    lines += [
        _ints("row_padding", [0, 0, 0, missing]),
        _ints("box_padding", [0, 0, 0, 0, missing, 0]),
        "best_boxes = Pad(found_boxes, box_padding)",
        "best_scores = Pad(found_scores, row_padding)",
        "best_labels = Pad(found_labels, row_padding)",
    ]
    return lines


def _int(name: str, value: int) -> str:
    return f"{name} = Constant <value = int64 {{{value}}}> ()"


def _ints(name: str, values: Iterable[int]) -> str:
    # The attribute value_ints would be shorter, but onnx 1.17 and 1.18 and ONNX Runtime 1.18 do not evaluate it, and
    # then reject the TopK.
    numbers = list(map(str, values))
    return f"{name} = Constant <value = int64[{len(numbers)}] {{{_joined(numbers)}}}> ()"


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names)


def _function(name: str, inputs: Iterable[str], outputs: Iterable[str], lines: Iterable[str]) -> onnx.FunctionProto:
    body = "\n".join(f"    {line}" for line in lines)
    return onnx.parser.parse_function(
        f'<opset_import: ["" : {OPSET}], domain: "{DOMAIN}">\n'
        f"{name} ({_joined(inputs)}) => ({_joined(outputs)}) {{\n{body}\n}}"
    )
