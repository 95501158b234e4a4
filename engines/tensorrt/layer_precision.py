"""Compare the precision that a network really has with the requested one, so that no difference goes unnoticed.

There are two sources. The parsed network is strongly typed, so TensorRT must compute in its types, which can be read
without a GPU. The engine inspector shows the types in the engine that was built, but needs a GPU.
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
# Kinds of layers that compute. All other layers only move data.
_KINDS = (CONVOLUTION, "deconvolution", "matrix_multiply", "activation", "elementwise", "normalization", "pooling")
_NAMES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}
# Words that the inspectors of different versions of TensorRT use for a tensor's type, the most specific word first.
_WORDS = (("int8", "int8"), ("fp8", "fp8"), ("bf16", "bf16"), ("half", "fp16"), ("fp16", "fp16"))
_FLOAT_WORDS = ("float", "fp32")

# Matches the names of layers and tactics that convolve, but not "convert", which casts.
_IS_CONVOLUTION = re.compile(r"conv(?!ert|ers)")

# Number of layers by kind and precision.
LayerCounts = dict[str, dict[str, int]]


def network_precision(network: tensorrt.INetworkDefinition) -> LayerCounts:
    """Count the layers of a parsed network by kind and precision.

    A convolution counts as int8 if its input and its weights both come from a DequantizeLinear, because TensorRT fuses
    such a convolution into an INT8 kernel. Every other layer counts with the type of its input.
    """
    producers = _producers(network)
    counters: dict[str, Counter[str]] = {}
    for layer in _layers(network):
        kind = _kind(layer)
        if kind in _KINDS:
            counters.setdefault(kind, Counter())[_layer_precision(layer, producers)] += 1
    return {kind: dict(counter) for kind, counter in sorted(counters.items())}


def convolutions(network: tensorrt.INetworkDefinition) -> dict[str, str]:
    """Return the precision of each convolution of a parsed network, by the name of its ONNX node."""
    producers = _producers(network)
    return {layer.name: _layer_precision(layer, producers) for layer in convolution_layers(network)}


def convolution_layers(network: tensorrt.INetworkDefinition) -> list[tensorrt.ILayer]:
    """Return the convolutions of a parsed network."""
    return [layer for layer in _layers(network) if _kind(layer) == CONVOLUTION]


def inspected_precision(information: str) -> LayerCounts:
    """Count the layers of a built engine by kind and precision.

    A fused layer that contains a convolution counts as one. Its precision is the narrowest type of its inputs.

    Args:
        information: JSON from ``EngineInspector.get_engine_information``, of an engine with detailed verbosity.

    Raises:
        BuildError: if the engine was built with less verbosity, so that it contains only the names of its layers.

    Examples:
        >>> layer = {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]}
        >>> inspected_precision(json.dumps({"Layers": [layer]}))
        {'convolution': {'fp16': 1}}
    """
    layers = json.loads(information).get("Layers", [])
    counters: dict[str, Counter[str]] = {}
    for layer in layers:
        if not isinstance(layer, dict):
            raise BuildError("engine: expected detailed layer information, got only names; build the engine again")
        words = " ".join(str(layer.get(key, "")) for key in ("LayerType", "ParameterType", "TacticName")).lower()
        kind = CONVOLUTION if _IS_CONVOLUTION.search(words) else str(layer.get("LayerType", "unknown")).lower()
        types = " ".join(_tensor_type(tensor) for tensor in layer.get("Inputs", []) if isinstance(tensor, dict))
        counters.setdefault(kind, Counter())[_from_words(types)] += 1
    return {kind: dict(counter) for kind, counter in sorted(counters.items())}


def check_precision(requested: str, precisions: Mapping[str, str], kept: Collection[str]) -> None:
    """Compare the convolutions of a parsed network with the requested precision.

    Args:
        requested: requested precision: fp32, fp16 or int8.
        precisions: precision of each convolution by name, from ``convolutions``.
        kept: names of the convolutions that the quantizer kept in FP16 on purpose.

    Raises:
        BuildError: if convolutions have another precision; the message says how many, and names the first.

    Examples:
        >>> check_precision("int8", {"conv1": "fp16", "conv2": "int8"}, kept=["conv1"])
    """
    if not precisions:
        raise BuildError("precision: expected convolutions in the network, found none; check that it is a detector")
    if requested == "int8":
        if not any(precision == "int8" for precision in precisions.values()):
            raise BuildError(
                f"precision: expected int8, got no convolution with quantized inputs among {len(precisions)}; "
                "build with precision int8 and calibration images, from an fp32 model"
            )
        # Convolutions that are not quantized must be in FP16. An engine with FP32 layers would not be an INT8 engine.
        wrong = {
            name: precision
            for name, precision in precisions.items()
            if precision != ("fp16" if name in kept else "int8")
        }
    else:
        wrong = {name: precision for name, precision in precisions.items() if precision != requested}
    if wrong:
        name, precision = next(iter(wrong.items()))
        raise BuildError(
            f"precision: expected {requested}, got another precision in {len(wrong)} of {len(precisions)} "
            f"convolutions, first {name} in {precision}; no engine was written"
        )


def check_inspected(requested: str, layers: LayerCounts) -> bool:
    """Compare the convolutions of a built engine with the requested precision.

    Args:
        requested: requested precision: fp32, fp16 or int8.
        layers: number of layers by kind and precision, from ``inspected_precision``.

    Returns:
        True if the engine has the requested precision. False if no convolution has a known precision, so that the
        parsed network must be read instead. Versions of TensorRT use different words for types, and an unknown word is
        no reason to refuse an engine.

    Raises:
        BuildError: if no convolution has the requested precision, or an FP16 or INT8 engine has a convolution in FP32.

    Examples:
        >>> check_inspected("int8", {"convolution": {"int8": 50, "fp16": 11}})
        True
    """
    counts = layers.get(CONVOLUTION, {})
    if not set(counts) & set(_NAMES.values()):
        return False
    wider = {"fp32": (), "fp16": ("fp32",), "int8": ("fp32",)}[requested]
    if not counts.get(requested) or any(counts.get(precision) for precision in wider):
        raise BuildError(
            f"precision: expected {requested}, got convolutions in {counts} from TensorRT; no engine was written"
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
    """True if a layer dequantizes INT8."""
    return _kind(layer) == "dequantize" and layer.get_input(0).dtype.name == "INT8"


def _tensor_type(tensor: Mapping[str, Any]) -> str:
    """Return the words that the inspector uses for the type of a tensor."""
    return " ".join(str(value) for key, value in tensor.items() if "format" in key.lower() or "type" in key.lower())


def _from_words(types: str) -> str:
    """Return the precision that the inspector's words describe, or ``other``."""
    types = types.lower()
    for word, precision in _WORDS:
        if word in types:
            return precision
    return "fp32" if any(word in types for word in _FLOAT_WORDS) else "other"
