"""Quantize to INT8 with explicit QuantizeLinear and DequantizeLinear nodes (Q/DQ pairs), in a layout for each runtime.

The layout ``tensorrt`` is symmetric int8 with zero point 0, with weights quantized per channel. A Q/DQ pair stands
before each convolution and on the skip connection of each residual sum. Everything else is FP16. TensorRT fuses the
pairs into INT8 kernels.

The layout ``cpu`` has uint8 activations around every operator that ONNX Runtime has an integer kernel for, because
these kernels are fast only with uint8. Everything else is FP32.

Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", arXiv 1806.08342, section 3.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

from engines.core.contract import LAYOUTS, TENSORRT
from engines.onnx.deployable import convolution_precisions, replace_items
from export.errors import ExportError
from export.precision.convolutions import weight_groups
from export.precision.half_precision import HALF_NAME, to_half
from export.precision.ranges import OPERATORS, Ranges

INT8_LIMIT = 127
# First opset whose QuantizeLinear and DequantizeLinear accept float16.
HALF_OPSET = 19
# Smallest positive number in float16. The weights of a channel with a smaller scale are practically zero.
MIN_HALF_SCALE = 2.0**-24


@dataclass(frozen=True)
class Quantization:
    """The record of how a network was quantized, stored in the ONNX metadata and in the engine's passport.

    Attributes:
        layout: layout of the INT8 operators, ``tensorrt`` or ``cpu``.
        calibrator: name of the calibrator: minmax, entropy, percentile or mse.
        images: number of calibration images.
        digest: SHA-256 of the calibration images, hexadecimal.
        findings: remarks of the audit of the calibration set.
        convolutions: number of convolutions.
        quantized: number of convolutions in INT8.
        share: share of INT8 in the multiply-adds of all convolutions, 0 to 1.
        kept: names of the convolutions kept in FP16 (FP32).
    """

    layout: str
    calibrator: str
    images: int
    digest: str
    findings: tuple[str, ...]
    convolutions: int
    quantized: int
    share: float
    kept: tuple[str, ...]

    def to_json(self) -> str:
        """Return the record as a JSON object."""
        return json.dumps(asdict(self))


def quantize(
    network: onnx.ModelProto,
    ranges: Ranges,
    layout: str,
    kept: Collection[str],
    fallback: Collection[str] = (),
) -> onnx.ModelProto:
    """Return a copy of a float32 network in INT8.

    Args:
        network: float32 network that returns raw heads and whose convolutions have names.
        ranges: ranges of the activations, from ``collect_ranges``.
        layout: layout of the INT8 operators, ``tensorrt`` or ``cpu``.
        kept: names of convolutions kept in FP16 (FP32).
        fallback: names of further convolutions kept in FP16 (FP32), whose inputs are not quantized either. In the
            layout ``cpu``, convolutions in ``kept`` read the quantized outputs of their neighbors, which is faster.

    Raises:
        ExportError: if a convolution that should be quantized is not.
        ValueError: if the layout or a convolution is unknown, or only some convolutions that share weights are kept.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from export.precision.convolutions import sensitive_convolutions
        >>> from export.half_weights import restore_weights
        >>> from retina_edge.assets import MODEL
        >>> network = restore_weights(heads_only(read_deployable(MODEL.read_bytes())))
        >>> ranges = {name: (-4.0, 4.0) for node in network.graph.node for name in node.output}  # see collect_ranges
        >>> int8 = quantize(network, ranges, "tensorrt", sensitive_convolutions(network, "tensorrt"))
        >>> round(int8.ByteSize() / network.ByteSize(), 2)
        0.26
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected {' or '.join(LAYOUTS)}, got {layout!r}")
    kept = (*kept, *fallback)
    names = {node.name for node in network.graph.node if node.op_type == "Conv"}
    if unknown := sorted(set(kept) - names):
        raise ValueError(f"kept: expected names of convolutions, got {unknown[0]!r}")
    _check_shared(network, kept)
    quantized = (
        _for_tensorrt(network, ranges, kept) if layout == TENSORRT else _for_cpu(network, ranges, kept, fallback)
    )
    floats = {name for name, precision in convolution_precisions(quantized).items() if precision != "int8"}
    if missed := sorted(floats - set(kept)):
        raise ExportError(
            f"int8: expected all convolutions except the {len(kept)} kept ones to be quantized, got {len(missed)} that "
            f"are not; the first is {missed[0]}"
        )
    return quantized


def _check_shared(network: onnx.ModelProto, kept: Collection[str]) -> None:
    """Raise ValueError if only some of the convolutions that share weights are kept, because weights have one type."""
    for names in weight_groups(network):
        if 0 < len(set(names) & set(kept)) < len(names):
            raise ValueError(f"kept: expected all or none of {', '.join(names)}, which share their weights")


def _read_only_by(network: onnx.ModelProto, fallback: Collection[str]) -> list[str]:
    """Return the operators, except convolutions, whose outputs only ``fallback`` reads, so that they stay in FP32."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in network.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    operators: list[str] = []
    for node in reversed(network.graph.node) if fallback else ():
        if node.op_type in OPERATORS and node.op_type != "Conv":
            others = [reader for name in node.output for reader in readers.get(name, ())]
            if all(reader.name in fallback or reader.name in operators for reader in others):
                operators.append(node.name)
    return operators


def _for_cpu(
    network: onnx.ModelProto, ranges: Ranges, kept: Collection[str], fallback: Collection[str]
) -> onnx.ModelProto:
    """Quantize with ONNX Runtime's own quantizer, which knows what its integer kernels fuse."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    bounds = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        copy.deepcopy(network),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
        nodes_to_quantize=[],
        # The preprocessing stays in FP32, because it uses none of OPERATORS.
        nodes_to_exclude=[*kept, *_read_only_by(network, fallback)],
        op_types_to_quantize=list(OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    _read_floats(network, model, fallback)
    quantizer.model.topological_sort()
    # The quantizer adds its own domain, but uses no operators of that domain.
    replace_items(model.opset_import, [item for item in model.opset_import if not item.domain])
    return model


def _read_floats(network: onnx.ModelProto, model: onnx.ModelProto, fallback: Collection[str]) -> None:
    """Let convolutions that fall back read float tensors instead of quantized ones.

    The quantizer removes a Relu if quantization clips to zero anyway. Convolutions that fall back need the Relu again.
    """
    reads = {node.name: node.input[0] for node in network.graph.node if node.name in fallback}
    relus = {node.output[0] for node in network.graph.node if node.op_type == "Relu"}
    producers = {output: node for node in model.graph.node for output in node.output}
    rectified: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        pair = producers.get(node.input[0]) if node.name in reads else None
        if pair is None or pair.op_type != "DequantizeLinear":
            continue
        raw = producers[pair.input[0]].input[0]
        # If the quantizer removed the Relu, the name of its output now stands for its input.
        if reads[node.name] in relus and producers[raw].op_type != "Relu":
            rectify = onnx.helper.make_node("Relu", [raw], [f"{raw}.rectified"], name=f"{raw}.rectify")
            raw = rectified.setdefault(raw, rectify).output[0]
        node.input[0] = raw
    model.graph.node.extend(rectified.values())


def _for_tensorrt(network: onnx.ModelProto, ranges: Ranges, kept: Collection[str]) -> onnx.ModelProto:
    """Convert to FP16, then insert Q/DQ pairs before the convolutions that are not kept."""
    model = to_half(network)
    _raise_opset(model)
    graph = model.graph
    pixels = next(node.input[0] for node in graph.node if node.output[0] == HALF_NAME)
    ranges = {**ranges, HALF_NAME: ranges[pixels]}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = [node for node in graph.node if node.op_type == "Conv" and node.name not in kept]
    pairs: dict[str, list[onnx.NodeProto]] = {}
    readers: list[tuple[onnx.NodeProto, int]] = [(node, 0) for node in chosen]
    readers += _skipped_branches(graph, {node.output[0] for node in chosen})
    for node, position in readers:
        name = node.input[position]
        if name not in pairs:
            pairs[name] = _activation_pair(graph, name, ranges)
        node.input[position] = pairs[name][1].output[0]
    dequantized: dict[str, onnx.NodeProto] = {}
    for node in chosen:
        name = node.input[1]
        if name not in dequantized:
            dequantized[name] = _quantize_weights(graph, weights[name])
        node.input[1] = dequantized[name].output[0]
    nodes = list(dequantized.values())
    for node in graph.node:
        nodes.append(node)
        for output in node.output:
            nodes.extend(pairs.get(output, ()))
    replace_items(graph.node, nodes)
    return model


def _raise_opset(model: onnx.ModelProto) -> None:
    for item in model.opset_import:
        if not item.domain:
            item.version = max(item.version, HALF_OPSET)


def _skipped_branches(graph: onnx.GraphProto, convolved: set[str]) -> list[tuple[onnx.NodeProto, int]]:
    """Return each residual sum with the position of the input that is its skip connection.

    If the skip connection is quantized, TensorRT fuses the sum with the convolution of the main branch. A sum of the
    pyramid stays in FP16, because one of its inputs is upsampled and not the output of a convolution.
    """
    rectified = {node.output[0] for node in graph.node if node.op_type in ("Relu", "MaxPool")}
    branches = []
    for node in graph.node:
        if node.op_type != "Add" or not set(node.input) <= convolved | rectified:
            continue
        if main := [position for position in (0, 1) if node.input[position] in convolved]:
            branches.append((node, 1 - main[0]))
    return branches


def _activation_pair(graph: onnx.GraphProto, name: str, ranges: Ranges) -> list[onnx.NodeProto]:
    """Return nodes that quantize and dequantize a tensor. All readers of the tensor share one scale."""
    low, high = ranges[name]
    scale = _half_scale(np.array(max(abs(low), abs(high)) / INT8_LIMIT))
    names = [f"{name}.scale", f"{name}.zero_point"]
    graph.initializer.append(onnx.numpy_helper.from_array(scale, names[0]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), np.int8), names[1]))
    return [
        onnx.helper.make_node("QuantizeLinear", [name, *names], [f"{name}.int8"], name=f"{name}.quantize"),
        onnx.helper.make_node(
            "DequantizeLinear", [f"{name}.int8", *names], [f"{name}.dequantized"], name=f"{name}.dequantize"
        ),
    ]


def _quantize_weights(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> onnx.NodeProto:
    """Replace float16 weights [out, in, h, w] by int8 weights with one scale per output channel."""
    name = tensor.name
    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    scale = _half_scale(np.abs(values).reshape(len(values), -1).max(axis=1) / INT8_LIMIT)
    # Divide by the float16 scale, so that the rounding of the scale costs no accuracy.
    steps = np.round(values / scale.astype(np.float32).reshape(-1, 1, 1, 1))
    graph.initializer.remove(tensor)
    names = [f"{name}.int8", f"{name}.scale", f"{name}.zero_point"]
    arrays: tuple[npt.NDArray[Any], ...] = (
        np.clip(steps, -INT8_LIMIT, INT8_LIMIT).astype(np.int8),
        scale,
        np.zeros(len(values), np.int8),
    )
    for array, array_name in zip(arrays, names, strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(array, array_name))
    return onnx.helper.make_node("DequantizeLinear", names, [f"{name}.dequantized"], name=f"{name}.dequantize", axis=0)


def _half_scale(scale: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Round a scale up to float16, so that 127 steps still reach the largest value. The result is never 0."""
    half = np.maximum(scale, MIN_HALF_SCALE).astype(np.float16)
    raised: npt.NDArray[np.float16] = np.where(
        half.astype(np.float64) < scale, np.nextafter(half, np.float16(np.inf)), half
    )
    return raised
