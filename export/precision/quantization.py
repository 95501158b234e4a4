"""INT8 as explicit QuantizeLinear and DequantizeLinear nodes, in the layout of whoever is to run it.

``tensorrt``: symmetric int8, zero point 0, a pair in front of each convolution and on the skipped branch of each
residual sum, weights per channel; what is not INT8 is FP16. TensorRT fuses the pairs into its INT8 kernels.

``cpu``: uint8 activations around every operator that ONNX Runtime has an integer kernel for; the rest is FP32. Its
kernels are fast with uint8 only.

Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", arXiv 1806.08342, section 3.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
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
from export.precision.half_precision import HALF_NAME, to_half
from export.precision.ranges import OPERATORS, Ranges

INT8_LIMIT = 127
# From here on QuantizeLinear and DequantizeLinear take float16.
HALF_OPSET = 19
# The smallest number that float16 can hold at all; a channel whose scale is below has no weights to speak of.
LEAST_SCALE = 2.0**-24


@dataclass(frozen=True)
class Quantization:
    """How a network was quantized; stands in the ONNX metadata and in the engine's passport.

    Attributes:
        layout: ``tensorrt`` or ``cpu``.
        calibrator: minmax, entropy, percentile or mse.
        images: how many the ranges come from.
        digest: sha256 of those images' contents.
        findings: of the calibration set's audit.
        convolutions: how many there are.
        quantized: how many of them are INT8.
        share: of the multiply-adds of all convolutions, those in INT8, 0 to 1.
        kept: names of the convolutions that stay in higher precision.
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
        return json.dumps(asdict(self))


def sensitive_convolutions(network: onnx.ModelProto, layout: str) -> tuple[str, ...]:
    """The convolutions kept out of INT8 by default: the first, which sees raw pixels, and the last of the heads.

    ONNX Runtime has no integer convolution that puts out floats, and the class head's last one, with 91 classes a
    sixth of the network, took a quarter of the quantized R50's time in FP32: in the layout ``cpu`` it is quantized.
    """
    convolutions = [node for node in network.graph.node if node.op_type == "Conv"]
    heads = {output.name for output in network.graph.output if layout == TENSORRT or output.name.startswith("box")}
    return tuple(node.name for index, node in enumerate(convolutions) if index == 0 or set(node.output) & heads)


def quantize(
    network: onnx.ModelProto,
    ranges: Ranges,
    layout: str,
    kept: Collection[str],
    put_back: Collection[str] = (),
) -> onnx.ModelProto:
    """A copy of a float32 network of raw heads in INT8.

    Args:
        network: its convolutions have names.
        ranges: of the activations, see ``export.precision.ranges``.
        layout: ``tensorrt`` or ``cpu``.
        kept: names of convolutions that stay as they are.
        put_back: further ones, which also read what is not quantized. In the layout ``cpu`` those that are merely kept
            read what their neighbors have quantized, which is faster.

    Raises:
        ExportError: a convolution that was to be quantized is not.
        ValueError: no such layout, no such convolution, or of those that share their weights only some.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected {' or '.join(LAYOUTS)}, got {layout!r}")
    kept = (*kept, *put_back)
    names = {node.name for node in network.graph.node if node.op_type == "Conv"}
    if unknown := sorted(set(kept) - names):
        raise ValueError(f"kept: expected names of convolutions, got {unknown[0]!r}")
    _check_shared(network, kept)
    quantized = (
        _for_tensorrt(network, ranges, kept) if layout == TENSORRT else _for_cpu(network, ranges, kept, put_back)
    )
    floats = {name for name, precision in convolution_precisions(quantized).items() if precision != "int8"}
    if missed := sorted(floats - set(kept)):
        raise ExportError(
            f"int8: {len(missed)} convolutions were to be quantized and are not, the first of them {missed[0]}"
        )
    return quantized


def _check_shared(network: onnx.ModelProto, kept: Collection[str]) -> None:
    """The heads use their weights on every level; they are stored once, in INT8 or not."""
    for names in weight_groups(network):
        if 0 < len(set(names) & set(kept)) < len(names):
            raise ValueError(f"kept: expected all or none of {', '.join(names)}, which share their weights")


def weight_groups(network: onnx.ModelProto, kept: Collection[str] = ()) -> list[tuple[str, ...]]:
    """Convolutions that are quantized together, because they share their weights; without those kept anyway."""
    groups: dict[str, list[str]] = {}
    for node in network.graph.node:
        if node.op_type == "Conv" and node.name not in kept:
            groups.setdefault(node.input[1], []).append(node.name)
    return [tuple(names) for names in groups.values()]


def multiply_adds(network: onnx.ModelProto) -> dict[str, int]:
    """Of each convolution, for one image."""
    inferred = onnx.shape_inference.infer_shapes(network, data_prop=True)
    tensors = (*inferred.graph.value_info, *inferred.graph.output)
    shapes = {info.name: [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim] for info in tensors}
    weights = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    return {
        node.name: int(np.prod(shapes[node.output[0]][1:])) * int(np.prod(weights[node.input[1]][1:]))
        for node in network.graph.node
        if node.op_type == "Conv"
    }


def int8_share(work: Mapping[str, int], kept: Collection[str]) -> float:
    """Of the ``multiply_adds`` of all convolutions, the share of those not kept, 0 to 1."""
    return 1 - sum(work[name] for name in kept) / sum(work.values())


def _read_by_none(network: onnx.ModelProto, put_back: Collection[str]) -> list[str]:
    """What is no convolution and is read by none in INT8: its output need not be quantized either."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in network.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: list[str] = []
    for node in reversed(network.graph.node) if put_back else ():
        if node.op_type in OPERATORS and node.op_type != "Conv":
            others = [reader for name in node.output for reader in readers.get(name, ())]
            if all(reader.name in put_back or reader.name in found for reader in others):
                found.append(node.name)
    return found


def _for_cpu(
    network: onnx.ModelProto, ranges: Ranges, kept: Collection[str], put_back: Collection[str]
) -> onnx.ModelProto:
    """By ONNX Runtime's own quantizer, which knows what its integer kernels fuse."""
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
        # Of the preprocessing nothing is in OPERATORS.
        nodes_to_exclude=[*kept, *_read_by_none(network, put_back)],
        op_types_to_quantize=list(OPERATORS),
        extra_options={},
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    _read_floats(network, model, put_back)
    quantizer.model.topological_sort()
    # It lists its own domain, whose operators it does not use.
    replace_items(model.opset_import, [item for item in model.opset_import if not item.domain])
    return model


def _read_floats(network: onnx.ModelProto, model: onnx.ModelProto, put_back: Collection[str]) -> None:
    """Lets convolutions that are put back read in floats what others read quantized.

    The quantizer has taken out a Relu that quantizing makes needless; for them it is done again.
    """
    reads = {node.name: node.input[0] for node in network.graph.node if node.name in put_back}
    relus = {node.output[0] for node in network.graph.node if node.op_type == "Relu"}
    producers = {output: node for node in model.graph.node for output in node.output}
    rectified: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        pair = producers.get(node.input[0]) if node.name in reads else None
        if pair is None or pair.op_type != "DequantizeLinear":
            continue
        raw = producers[pair.input[0]].input[0]
        # Under the name of what it put out there is now what it read.
        if reads[node.name] in relus and producers[raw].op_type != "Relu":
            rectify = onnx.helper.make_node("Relu", [raw], [f"{raw}.rectified"], name=f"{raw}.rectify")
            raw = rectified.setdefault(raw, rectify).output[0]
        node.input[0] = raw
    model.graph.node.extend(rectified.values())


def _for_tensorrt(network: onnx.ModelProto, ranges: Ranges, kept: Collection[str]) -> onnx.ModelProto:
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
    """Of each residual sum, the input that is not the main branch: quantized, TensorRT fuses sum and convolution.

    A sum of the pyramid has an upsampled input, which no convolution writes, and stays in FP16 as a whole.
    """
    rectified = {node.output[0] for node in graph.node if node.op_type in ("Relu", "MaxPool")}
    found = []
    for node in graph.node:
        if node.op_type != "Add" or not set(node.input) <= convolved | rectified:
            continue
        if main := [position for position in (0, 1) if node.input[position] in convolved]:
            found.append((node, 1 - main[0]))
    return found


def _activation_pair(graph: onnx.GraphProto, name: str, ranges: Ranges) -> list[onnx.NodeProto]:
    """Quantize and dequantize one tensor, with the one scale for all its readers."""
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
    """Exchanges float16 weights [out, in, h, w] for int8 ones with a scale for each output channel."""
    name = tensor.name
    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    scale = _half_scale(np.abs(values).reshape(len(values), -1).max(axis=1) / INT8_LIMIT)
    # By the scale as float16 holds it, so that its rounding costs nothing.
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
    """The scale as float16: never 0, and where it is rounded it is rounded up, so that 127 steps still reach."""
    half = np.maximum(scale, LEAST_SCALE).astype(np.float16)
    raised: npt.NDArray[np.float16] = np.where(
        half.astype(np.float64) < scale, np.nextafter(half, np.float16(np.inf)), half
    )
    return raised
