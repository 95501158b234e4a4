"""The network as TensorRT is to see it: a deployable ONNX cut at its raw heads, the kernels behind them or not."""

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

# Shape and TensorRT's name for the type.
TensorSignature = tuple[tuple[int, ...], str]
_TYPES = {"float16": "HALF", "float32": "FLOAT", "int32": "INT32"}


@dataclass(frozen=True)
class EngineNetwork:
    """A network ready to be parsed, and what must be true of it afterwards.

    Attributes:
        model: serialized ONNX.
        contract: what the detector promises.
        geometry: of the heads, for the kernels.
        launches: of the kernels that are in it as plugins; none where it ends at the raw heads.
        quantization: how INT8 was calibrated, None in other precisions.
        accuracy: what its precision costs, None where that was not measured.
    """

    model: bytes
    contract: DetectorContract
    geometry: Geometry
    launches: tuple[Launch, ...]
    quantization: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None

    @property
    def postprocess(self) -> str:
        """``plugin`` or ``kernels``."""
        return PLUGIN if self.launches else KERNELS

    @property
    def kept(self) -> Collection[str]:
        """Convolutions that the quantizer kept out of INT8 on purpose."""
        return frozenset(self.quantization["kept"]) if self.quantization else frozenset()

    def check(self, network: tensorrt.INetworkDefinition) -> None:
        """Holds the parsed network's input, plugins and outputs against the contract.

        Raises:
            BuildError: they differ.
        """
        images = _describe(network.get_input, network.num_inputs)
        batch = images[0][0][0]
        wanted = [((batch, *self.contract.input_size, 3), "UINT8")]
        if images != wanted:
            raise BuildError(f"input: expected {wanted} by the contract, TensorRT's parser found {images}")
        tensors = self.geometry.inputs(batch)
        if self.launches:
            self._check_plugins(network, tensors)
            expected: Sequence[Tensor] = self.launches[-1].outputs
        else:
            expected = [tensors[name] for name in head_names(len(self.geometry.feature_sizes))]
        _compare("outputs", expected, _describe(network.get_output, network.num_outputs))

    def _check_plugins(self, network: tensorrt.INetworkDefinition, tensors: dict[str, Tensor]) -> None:
        """Whatever else the parser took our nodes for would change the detections in silence; adds their outputs."""
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        plugins = [layer for layer in layers if "PLUGIN" in layer.type.name]
        wanted, found = list(map(plugin_name, self.launches)), [layer.name for layer in plugins]
        if found != wanted:
            raise BuildError(f"plugins: expected {wanted}, TensorRT's parser made {found or 'none'}")
        for launch, layer in zip(self.launches, plugins, strict=True):
            tensors |= {output.name: output for output in launch.outputs}
            inputs, outputs = (layer.get_input, layer.num_inputs), (layer.get_output, layer.num_outputs)
            _compare(f"inputs of {layer.name}", [tensors[name] for name in launch.inputs], _describe(*inputs))
            _compare(f"outputs of {layer.name}", launch.outputs, _describe(*outputs))


def prepare(content: bytes, options: BuildOptions) -> EngineNetwork:
    """Takes a deployable ONNX apart and puts it together for TensorRT.

    Raises:
        ModelFileError: not a deployable ONNX of ours.
        BuildError: its precision, layout, batch or sizes do not fit the options.
    """
    deployable = read_deployable(content)
    contract = contract_of(deployable)
    if contract.precision != options.precision:
        raise BuildError(
            f"precision: {options.precision} asked, and the ONNX is {contract.precision}; "
            f"retina-edge export --precision {options.precision} makes one that fits"
        )
    quantization, accuracy = (record_of(deployable, key) for key in (QUANTIZATION_KEY, ACCURACY_KEY))
    if quantization and quantization["layout"] != TENSORRT:
        raise BuildError(
            f"layout: expected an INT8 ONNX for TensorRT, got one for {quantization['layout']}; "
            "export it again with --for tensorrt"
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
    """Raises BuildError where a model that takes such batches, None for any, cannot take those asked for."""
    if batch is None:
        return
    if options.max_batch is not None:
        raise BuildError(
            f"max-batch: expected an ONNX of any batch size, got one of {batch}; export it with --batch dynamic"
        )
    if options.batch != batch:
        raise BuildError(
            f"batch: {options.batch} asked, and the ONNX takes {batch}; export it with --batch {options.batch}, "
            "or --batch dynamic"
        )


def _half(types: Collection[str]) -> bool:
    if types not in ({"float"}, {"float16"}):
        raise BuildError(f"heads: expected all of float or all of float16, got {sorted(types)}; export the model again")
    return types == {"float16"}


def _describe(get: Callable[[int], tensorrt.ITensor], count: int) -> list[TensorSignature]:
    tensors = [get(index) for index in range(count)]
    return [(tuple(tensor.shape), tensor.dtype.name) for tensor in tensors]


def _compare(what: str, tensors: Sequence[Tensor], found: Sequence[TensorSignature]) -> None:
    expected = [(tensor.shape, _TYPES[tensor.dtype]) for tensor in tensors]
    if expected != list(found):
        raise BuildError(
            f"{what}: expected {expected} by the contract, TensorRT's parser found {list(found)}; export it again"
        )
