"""The network as TensorRT is to see it: a deployable ONNX cut at its raw heads, which the kernels take."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engines.build_options import BuildOptions
from engines.contract import TENSORRT, DetectorContract
from engines.errors import BuildError
from engines.graph import (
    QUANTIZATION_KEY,
    batch_of,
    contract_of,
    fix_batch,
    head_types,
    heads_only,
    metadata_of,
    read_deployable,
)
from engines.plugins.launch import Geometry

KERNELS, PLUGIN = "kernels", "plugin"


@dataclass(frozen=True)
class EngineNetwork:
    """A network ready to be parsed, and what must be true of it afterwards.

    Attributes:
        model: serialised ONNX.
        contract: what the detector promises.
        geometry: of the heads, for the kernels.
        postprocess: ``kernels``.
        quantization: how INT8 was calibrated, None in other precisions.
    """

    model: bytes
    contract: DetectorContract
    geometry: Geometry
    postprocess: str
    quantization: Mapping[str, Any] | None

    @property
    def kept(self) -> Collection[str]:
        """Convolutions that the quantiser kept out of INT8 on purpose."""
        return frozenset(self.quantization["kept"]) if self.quantization else frozenset()

    def check(self, network: Any) -> None:
        """Holds the parsed network's inputs and outputs against the contract.

        Raises:
            BuildError: they differ.
        """
        images = network.get_input(0)
        wanted = (*self.contract.input_size, 3)
        if network.num_inputs != 1 or tuple(images.shape)[1:] != wanted or images.dtype.name != "UINT8":
            raise BuildError(
                f"input: expected one of uint8 [N, {', '.join(map(str, wanted))}], TensorRT's parser found "
                f"{network.num_inputs}, the first of them {images.dtype.name} {list(images.shape)}"
            )
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        expected = [
            (self.geometry.num_anchors * rows, *size)
            for rows in (self.geometry.num_classes, 4)
            for size in self.geometry.feature_sizes
        ]
        kind = "HALF" if self.geometry.half else "FLOAT"
        found = [tuple(output.shape)[1:] for output in outputs]
        if found != expected or {output.dtype.name for output in outputs} != {kind}:
            raise BuildError(
                f"heads: expected {kind} of {expected} (channels, height, width) by the contract, TensorRT's parser "
                f"found {[output.dtype.name for output in outputs]} of {found}; export the model again"
            )


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
    text = metadata_of(deployable).get(QUANTIZATION_KEY)
    quantization = json.loads(text) if text else None
    if quantization and quantization["layout"] != TENSORRT:
        raise BuildError(
            f"layout: expected an INT8 ONNX for TensorRT, got one for {quantization['layout']}; "
            "export it again with --for tensorrt"
        )
    network = heads_only(deployable)
    _check_batch(batch_of(network), options)
    if options.max_batch is None:
        network = fix_batch(network, options.batch)
    half = _half(head_types(network))
    try:
        geometry = Geometry.of(contract, half=half)
    except ValueError as error:
        raise BuildError(f"{error}; export the model again with other options") from error
    if options.postprocess == PLUGIN:
        raise BuildError(
            "postprocess plugin: the kernels cannot be put into an engine yet; use --postprocess kernels, which ends "
            "it at the raw heads"
        )
    return EngineNetwork(network.SerializeToString(), contract, geometry, KERNELS, quantization)


def _check_batch(batch: int | None, options: BuildOptions) -> None:
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
