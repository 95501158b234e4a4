"""The network for TensorRT: a deployable ONNX that ends at its raw heads, or continues with the kernels as plugins."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engines.core.contract import TENSORRT, DetectorContract
from engines.core.errors import BuildError
from engines.core.tensor_names import ACCURACY_KEY, QUANTIZATION_KEY, head_names
from engines.onnx.deployable import (
    batch_of,
    contract_of,
    fix_batch,
    head_types,
    heads_only,
    read_deployable,
    record_of,
    with_plugins,
)
from engines.plugins.launch import Geometry, Launch, Tensor, postprocess_launches
from engines.plugins.parameters import pack_parameters
from engines.tensorrt.build_options import KERNELS, PLUGIN, BuildOptions
from engines.tensorrt.plugin_definitions import plugin_name

if TYPE_CHECKING:
    import tensorrt

# Shape of a tensor, and TensorRT's name of its type.
TensorSignature = tuple[tuple[int, ...], str]
_TYPES = {"float16": "HALF", "float32": "FLOAT", "int32": "INT32"}


@dataclass(frozen=True)
class EngineNetwork:
    """A network for TensorRT's parser, and the data to check the parsed network with.

    Attributes:
        model: serialized ONNX.
        contract: contract of the model.
        geometry: sizes of the raw heads, for the kernels.
        launches: launches of the kernels that the network contains as plugins; empty if it ends at the raw heads.
        quantization: record of the INT8 calibration; None in other precisions.
        accuracy: record of what the precision costs; None if the cost was not measured.
    """

    model: bytes
    contract: DetectorContract
    geometry: Geometry
    launches: tuple[Launch, ...]
    quantization: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None

    @property
    def postprocess(self) -> str:
        """The kind of post-processing: ``plugin`` or ``kernels``."""
        return PLUGIN if self.launches else KERNELS

    @property
    def kept(self) -> Collection[str]:
        """Names of the convolutions that the quantizer kept in FP16 on purpose."""
        return frozenset(self.quantization.get("kept", ())) if self.quantization else frozenset()

    def check(self, network: tensorrt.INetworkDefinition) -> None:
        """Compare the input, the plugins and the outputs of a parsed network with the contract.

        Raises:
            BuildError: if they differ.
        """
        images = _describe(network.get_input, network.num_inputs)
        batch = images[0][0][0]
        wanted = [((batch, *self.contract.input_size, 3), "UINT8")]
        if images != wanted:
            raise BuildError(f"input: expected {wanted} by the contract, got {images} from TensorRT's parser")
        tensors = self.geometry.inputs(batch)
        if self.launches:
            self._check_plugins(network, tensors)
            expected: Sequence[Tensor] = self.launches[-1].outputs
        else:
            expected = [tensors[name] for name in head_names(len(self.geometry.feature_sizes))]
        _compare("outputs", expected, _describe(network.get_output, network.num_outputs))

    def _check_plugins(self, network: tensorrt.INetworkDefinition, tensors: dict[str, Tensor]) -> None:
        """Check that the parser turned our nodes into our plugins. Other layers would silently change the detections.

        Args:
            network: parsed network.
            tensors: expected tensors by name; the outputs of the plugins are added.
        """
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        plugins = [layer for layer in layers if "PLUGIN" in layer.type.name]
        wanted, names = list(map(plugin_name, self.launches)), [layer.name for layer in plugins]
        if names != wanted:
            raise BuildError(f"plugins: expected {wanted}, got {names or 'none'} from TensorRT's parser")
        for launch, layer in zip(self.launches, plugins, strict=True):
            tensors |= {output.name: output for output in launch.outputs}
            inputs, outputs = (layer.get_input, layer.num_inputs), (layer.get_output, layer.num_outputs)
            _compare(f"inputs of {layer.name}", [tensors[name] for name in launch.inputs], _describe(*inputs))
            _compare(f"outputs of {layer.name}", launch.outputs, _describe(*outputs))


def prepare(content: bytes, options: BuildOptions) -> EngineNetwork:
    """Convert a deployable ONNX to the network that TensorRT parses.

    Args:
        content: content of the ONNX file.
        options: options of the build, with ``postprocess`` decided.

    Raises:
        ModelFileError: if the file is not a deployable ONNX of retina-edge export.
        BuildError: if its precision, layout or batch size does not fit the options, or a size exceeds a limit of the
            kernels.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> network = prepare(MODEL.read_bytes(), BuildOptions(postprocess="plugin"))
        >>> [launch.entry for launch in network.launches]
        ['filter_f32_4', 'select_f32_4', 'nms']
    """
    deployable = read_deployable(content)
    contract = contract_of(deployable)
    if contract.precision != options.precision:
        raise BuildError(
            f"precision: expected an ONNX in {options.precision}, got one in {contract.precision}; make it with "
            f"retina-edge export MODEL.pt -o MODEL.onnx --precision {options.precision}"
        )
    quantization, accuracy = (record_of(deployable, key) for key in (QUANTIZATION_KEY, ACCURACY_KEY))
    if quantization and (layout := quantization.get("layout")) != TENSORRT:
        raise BuildError(
            f"layout: expected an INT8 ONNX for TensorRT, got one for {layout}; "
            "export it again for the layout tensorrt: retina-edge export MODEL.pt -o MODEL.onnx --precision int8 --for "
            "tensorrt --calibration DIR"
        )
    network = heads_only(deployable)
    check_batch(batch_of(network), options)
    if options.max_batch is None:
        network = fix_batch(network, options.batch)
    half = _half(head_types(network))
    try:
        geometry = Geometry.of(contract, half=half)
    except ValueError as error:
        raise BuildError(f"{error}; export the model again with other options") from error
    launches: tuple[Launch, ...] = ()
    if options.postprocess == PLUGIN:
        launches = postprocess_launches(geometry, options.batch)
        network = with_plugins(network, launches, list(map(plugin_name, launches)), pack_parameters(contract))
    return EngineNetwork(network.SerializeToString(), contract, geometry, launches, quantization, accuracy)


def check_batch(batch: int | None, options: BuildOptions) -> None:
    """Check that a model takes the batch sizes in the options.

    Args:
        batch: batch size of the model; None if the model takes any size.
        options: options of the build.

    Raises:
        BuildError: if the model does not take these batch sizes.

    Examples:
        >>> check_batch(None, BuildOptions(max_batch=8))
        >>> check_batch(1, BuildOptions(batch=2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        engines.core.errors.BuildError: batch: expected an ONNX of batch size 2, got one of 1; export it ...
    """
    if batch is None:
        return
    if options.max_batch is not None:
        raise BuildError(
            f"max_batch: expected an ONNX of any batch size, got one of {batch}; export it again with retina-edge "
            "export MODEL.pt -o MODEL.onnx --batch dynamic"
        )
    if options.batch != batch:
        raise BuildError(
            f"batch: expected an ONNX of batch size {options.batch}, got one of {batch}; export it again with "
            f"retina-edge export MODEL.pt -o MODEL.onnx --batch {options.batch}"
        )


def _half(types: Collection[str]) -> bool:
    """True if the raw heads are in float16, False if they are in float32."""
    if types not in ({"float"}, {"float16"}):
        raise BuildError(
            f"raw heads: expected all in float or all in float16, got {sorted(types)}; export the model again"
        )
    return types == {"float16"}


def _describe(get: Callable[[int], tensorrt.ITensor], count: int) -> list[TensorSignature]:
    tensors = [get(index) for index in range(count)]
    return [(tuple(tensor.shape), tensor.dtype.name) for tensor in tensors]


def _compare(what: str, tensors: Sequence[Tensor], parsed: Sequence[TensorSignature]) -> None:
    expected = [(tensor.shape, _TYPES[tensor.dtype]) for tensor in tensors]
    if expected != list(parsed):
        raise BuildError(
            f"{what}: expected {expected} by the contract, got {list(parsed)} from TensorRT's parser; export the model "
            "again"
        )
