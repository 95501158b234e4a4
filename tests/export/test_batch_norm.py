"""Folding of batch normalizations: the nodes of heads without normalization, and the same numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from engines.core.contract import DetectorContract
from engines.core.tensor_names import INPUT
from export.batch_norm import fold_batch_norms
from export.network import Network, export_network, torch_heads
from export.precision.calibration import audit
from export.precision.convolutions import sensitive_convolutions
from export.precision.quantization import quantize
from export.precision.ranges import collect_ranges
from retina_edge.imaging.image_file import read_image
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively

CONFIG = dataclasses.replace(TINY, head_depth=2)
# Largest difference of a logit before and after folding.
TOLERANCE = 1e-4


def network_of(head_norm: str) -> tuple[Network, DetectorContract]:
    torch.manual_seed(0)
    model = lively(RetinaNet(dataclasses.replace(CONFIG, head_norm=head_norm)))
    contract = contract_of(model)
    return Network(model, contract).eval(), contract


def nodes(model: onnx.ModelProto) -> Counter[tuple[str, str]]:
    return Counter((node.op_type, node.name if node.op_type == "Conv" else "") for node in model.graph.node)


def run(model: onnx.ModelProto, images: npt.NDArray[np.generic], name: str = INPUT) -> list[npt.NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: images}))


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_heads_with_batch_normalization_are_exported_as_heads_without(
    norm: str, frames: list[npt.NDArray[np.uint8]]
) -> None:
    plain = export_network(*network_of("none"), batch=None)
    network, contract = network_of(norm)
    folded = export_network(network, contract, batch=None)
    onnx.checker.check_model(folded, full_check=True)

    assert nodes(folded) == nodes(plain)
    assert not [item.name for item in folded.graph.initializer if "running" in item.name]
    images = np.stack([frame[:128, :160] for frame in frames])
    for mine, expected in zip(run(folded, images), torch_heads(network, images), strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(mine, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("layout", "decibels"), [("tensorrt", 12.0), ("cpu", 18.0)])
def test_int8_has_the_nodes_of_heads_without_normalization_and_little_noise(
    layout: str, decibels: float, treecrowns: Path
) -> None:
    """Each level has its own weights after folding, so that each has its own scales."""
    quantized, images = {}, audit(list((treecrowns / "images").iterdir())[:8], read_image)
    for norm in ("none", "batch"):
        network, contract = network_of(norm)
        exported = export_network(network, contract, batch=1)
        ranges = collect_ranges(exported, contract, images, calibrator="minmax")
        quantized[norm] = quantize(exported, ranges, layout, sensitive_convolutions(exported, layout))
    folded, plain = nodes(quantized["batch"]), nodes(quantized["none"])
    weights, shared = (count.pop(("DequantizeLinear", "")) for count in (folded, plain))
    assert folded == plain
    convolutions, levels = 2 * CONFIG.head_depth, CONFIG.num_levels
    # The layout for the CPU has biases in integers, except those that several convolutions share.
    biases = convolutions * levels if layout == "cpu" else 0
    assert weights - shared == convolutions * (levels - 1) + biases
    onnx.checker.check_model(quantized["batch"], full_check=True)
    frame = next(images.batches(contract, 1))
    for mine, expected in zip(run(quantized["batch"], frame), run(exported, frame), strict=True):
        assert 10 * np.log10(np.var(expected) / np.mean((mine - expected) ** 2)) > decibels


def normalized(*, shared: bool = False, output: bool = False, computed: bool = False, bias: bool = True) -> Any:
    """Return a convolution and a normalization.

    Args:
        shared: True if something else reads the convolution.
        output: True if the convolution is an output.
        computed: True if the mean is computed.
        bias: True if the convolution has a bias.
    """
    random = np.random.default_rng(0)
    constants = {name: random.uniform(0.5, 2, 4).astype(np.float32) for name in ("scale", "shift", "mean", "var", "b")}
    constants["w"] = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    convolution = helper.make_node("Conv", ["x", "w", *(["b"] if bias else [])], ["c"], name="conv")
    mean = [helper.make_node("Identity", ["mean"], ["m"])] if computed else []
    inputs = ["c", "scale", "shift", "m" if computed else "mean", "var"]
    norm = helper.make_node("BatchNormalization", inputs, ["y"], epsilon=0.1)
    other = [helper.make_node("Relu", ["c"], ["z"])] if shared else []
    outputs = ["y", *(["z"] if shared else []), *(["c"] if output else [])]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 6, 6]) for name in outputs]
    return helper.make_model(
        helper.make_graph(
            [convolution, *mean, norm, *other],
            "normalized",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
            infos,
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )


@pytest.mark.parametrize("bias", [False, True])
def test_folding_keeps_the_numbers_and_removes_what_is_unused(bias: bool) -> None:
    model = normalized(bias=bias)
    folded = fold_batch_norms(model)
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    assert sorted(tensor.name for tensor in folded.graph.initializer) == ["model.conv.bias", "model.conv.weight"]
    assert len(model.graph.node) == 2  # the network itself is not changed
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(folded, x, "x")[0], run(model, x, "x")[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("option", ["shared", "output", "computed"])
def test_a_normalization_that_cannot_be_folded_stays(option: str) -> None:
    model = normalized(**{option: True})
    onnx.checker.check_model(model, full_check=True)
    assert fold_batch_norms(model).graph.node == model.graph.node
