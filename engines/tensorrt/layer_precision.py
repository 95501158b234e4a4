"""The precision a network really has, held against the one asked for: never a silent downgrade.

Two witnesses. The parsed network is strongly typed: TensorRT must compute in the types it shows, and it can be read
without a GPU. The engine inspector tells what was built, and needs one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from engines.core.errors import BuildError

if TYPE_CHECKING:
    import tensorrt

CONVOLUTION = "convolution"
# Arithmetic worth reporting; the rest moves data about.
_KINDS = (CONVOLUTION, "deconvolution", "matrix_multiply", "activation", "elementwise", "normalization", "pooling")
_NAMES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}
# How the inspector of one TensorRT or another words a tensor's type, most telling first.
_WORDS = (("int8", "int8"), ("fp8", "fp8"), ("bf16", "bf16"), ("half", "fp16"), ("fp16", "fp16"))
_FLOAT_WORDS = ("float", "fp32")

# In the names of layers and tactics; not "convert", which casts.
_IS_CONVOLUTION = re.compile(r"conv(?!ert|ers)")

# Kind of layer, then precision, then how many.
LayerCounts = dict[str, dict[str, int]]


def network_precision(network: tensorrt.INetworkDefinition) -> LayerCounts:
    """Precision of each layer kind of a parsed ``INetworkDefinition``.

    A convolution counts as int8 when its input and its weights both come out of a DequantizeLinear, which is what
    TensorRT fuses into an INT8 kernel; else it has the type of its input.
    """
    producers = _producers(network)
    found: dict[str, Counter[str]] = {}
    for layer in _layers(network):
        kind = _kind(layer)
        if kind in _KINDS:
            found.setdefault(kind, Counter())[_layer_precision(layer, producers)] += 1
    return {kind: dict(counts) for kind, counts in sorted(found.items())}


def convolutions(network: tensorrt.INetworkDefinition) -> dict[str, str]:
    """Precision of each convolution of a parsed network by its name, which is the ONNX node's."""
    producers = _producers(network)
    return {layer.name: _layer_precision(layer, producers) for layer in convolution_layers(network)}


def convolution_layers(network: tensorrt.INetworkDefinition) -> list[tensorrt.ILayer]:
    """The convolutions of a parsed network."""
    return [layer for layer in _layers(network) if _kind(layer) == CONVOLUTION]


def inspected_precision(information: str) -> LayerCounts:
    """The same of an engine, from the JSON of ``EngineInspector.get_engine_information`` at detailed verbosity.

    A fused layer has the kind of the convolution in it, and the narrowest type among its inputs.

    Raises:
        BuildError: the engine holds only names, being built at another verbosity.
    """
    layers = json.loads(information).get("Layers", [])
    found: dict[str, Counter[str]] = {}
    for layer in layers:
        if not isinstance(layer, dict):
            raise BuildError("engine: expected detailed layer information, found names only; build the engine again")
        words = " ".join(str(layer.get(key, "")) for key in ("LayerType", "ParameterType", "TacticName")).lower()
        kind = CONVOLUTION if _IS_CONVOLUTION.search(words) else str(layer.get("LayerType", "unknown")).lower()
        types = " ".join(_tensor_type(tensor) for tensor in layer.get("Inputs", []) if isinstance(tensor, dict))
        found.setdefault(kind, Counter())[_from_words(types)] += 1
    return {kind: dict(counts) for kind, counts in sorted(found.items())}


def check_precision(asked: str, found: Mapping[str, str], kept: Collection[str]) -> None:
    """Holds the convolutions of a parsed network against the precision asked for.

    Args:
        asked: fp32, fp16 or int8.
        found: precision of each convolution by name, from ``convolutions``.
        kept: convolutions that the quantizer kept out of INT8 on purpose.

    Raises:
        BuildError: a convolution has another precision; names how many, and the first.
    """
    if not found:
        raise BuildError("precision: expected convolutions in the network, found none; is this a detector?")
    if asked == "int8":
        if not any(precision == "int8" for precision in found.values()):
            raise BuildError(
                f"precision: int8 asked, and none of the {len(found)} convolutions has quantized inputs; "
                "calibrate with --precision int8 --calibration DIR"
            )
        # What stays out of INT8 is FP16: an engine that is half FP32 is no INT8 engine.
        wrong = {
            name: precision for name, precision in found.items() if precision != ("fp16" if name in kept else "int8")
        }
    else:
        wrong = {name: precision for name, precision in found.items() if precision != asked}
    if wrong:
        name, precision = next(iter(wrong.items()))
        raise BuildError(
            f"precision: {asked} asked, and {len(wrong)} of {len(found)} convolutions have another, the first of them "
            f"{name} in {precision}; no engine was written"
        )


def check_inspected(asked: str, found: LayerCounts) -> bool:
    """Holds a built engine's convolutions against the precision asked for, by their kinds alone.

    Returns:
        False where the inspector shows no convolution in words that are known here: each version of TensorRT has its
        own, and what it does not say is no reason to refuse an engine. The parsed network is the witness then.

    Raises:
        BuildError: none of the convolutions has the precision, or in an FP16 or INT8 engine some are in FP32.
    """
    counts = found.get(CONVOLUTION, {})
    if not set(counts) & set(_NAMES.values()):
        return False
    wider = {"fp32": (), "fp16": ("fp32",), "int8": ("fp32",)}[asked]
    if not counts.get(asked) or any(counts.get(precision) for precision in wider):
        raise BuildError(
            f"precision: {asked} asked, and TensorRT built the convolutions as {counts}; no engine was written"
        )
    return True


def _layers(network: tensorrt.INetworkDefinition) -> Iterator[tensorrt.ILayer]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _producers(network: tensorrt.INetworkDefinition) -> dict[str, tensorrt.ILayer]:
    return {layer.get_output(index).name: layer for layer in _layers(network) for index in range(layer.num_outputs)}


def _kind(layer: tensorrt.ILayer) -> str:
    return str(layer.type).rpartition(".")[2].lower()


def _layer_precision(layer: tensorrt.ILayer, producers: Mapping[str, tensorrt.ILayer]) -> str:
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    if _kind(layer) == CONVOLUTION and len(inputs) > 1:
        sources = [producers.get(tensor.name) for tensor in inputs[:2]]
        if all(source is not None and _is_int8(source) for source in sources):
            return "int8"
    return _NAMES.get(inputs[0].dtype.name, str(inputs[0].dtype.name).lower())


def _is_int8(layer: tensorrt.ILayer) -> bool:
    return _kind(layer) == "dequantize" and layer.get_input(0).dtype.name == "INT8"


def _tensor_type(tensor: Mapping[str, Any]) -> str:
    return " ".join(str(value) for key, value in tensor.items() if "format" in key.lower() or "type" in key.lower())


def _from_words(types: str) -> str:
    types = types.lower()
    for word, precision in _WORDS:
        if word in types:
            return precision
    return "fp32" if any(word in types for word in _FLOAT_WORDS) else "other"
