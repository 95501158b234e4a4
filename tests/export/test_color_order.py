"""Tests of the folding of the color order: the same heads without the exchange of channels, or the network as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from engines.core.contract import DetectorContract
from engines.core.tensor_names import INPUT
from export import network as network_module
from export.color_order import fold_color_order
from export.network import Network, export_network, torch_heads
from retina_edge.model.retinanet import RetinaNet

# Rounding of float32 sums in another order, relative to the largest head.
RELATIVE = 2e-5


class Stem(nn.Module):
    """A model that begins with a given layer."""

    def __init__(self, model: RetinaNet, stem: nn.Module) -> None:
        super().__init__()
        self.model, self.stem = model, stem

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        heads: tuple[list[Tensor], list[Tensor]] = self.model(self.stem(images))
        return heads


class Twice(nn.Module):
    """A layer that reads its input twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.conv(images) + images
        return out


def unfolded(monkeypatch: pytest.MonkeyPatch, network: Network, contract: DetectorContract) -> onnx.ModelProto:
    with monkeypatch.context() as context:
        context.setattr(network_module, "fold_color_order", lambda model: model)
        return export_network(network, contract, batch=1)


def heads_of(model: onnx.ModelProto, image: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {INPUT: image}))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def image_of(contract: DetectorContract) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, *contract.input_size, 3), np.uint8)


def assert_equal_heads(found: list[npt.NDArray[np.float32]], expected: list[npt.NDArray[np.float32]]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=RELATIVE * np.abs(other).max())


def test_the_heads_are_those_of_torch_without_an_exchange_of_channels(
    monkeypatch: pytest.MonkeyPatch, model: RetinaNet, contract: DetectorContract
) -> None:
    """Mean and deviation differ in each channel, so exchanged ones would show."""
    contract = dataclasses.replace(contract, mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.5))
    network, image = Network(model, contract).eval(), image_of(contract)
    folded, plain = export_network(network, contract, batch=1), unfolded(monkeypatch, network, contract)
    assert "Gather" not in operators(folded)
    assert operators(plain).count("Gather") == 1
    assert len(folded.graph.initializer) == len(plain.graph.initializer) - 1
    onnx.checker.check_model(folded, full_check=True)
    assert_equal_heads(heads_of(folded, image), torch_heads(network, image))
    assert_equal_heads(heads_of(folded, image), heads_of(plain, image))
    other = heads_of(folded, np.ascontiguousarray(image[..., ::-1]))
    assert max(float(np.abs(one - two).max()) for one, two in zip(other, heads_of(folded, image), strict=True)) > 1e-3


def test_a_model_trained_on_bgr_stays_as_it_is(model: RetinaNet, contract: DetectorContract) -> None:
    contract = dataclasses.replace(contract, color_order="BGR")
    exported = export_network(Network(model, contract).eval(), contract, batch=1)
    assert fold_color_order(exported) is exported


@pytest.mark.parametrize("stem", [nn.Conv2d(3, 3, 1, groups=3), nn.ReLU(), Twice(), nn.Conv2d(3, 3, 3, padding=1)])
def test_another_beginning_keeps_its_heads(model: RetinaNet, contract: DetectorContract, stem: nn.Module) -> None:
    """Folded only if an ordinary convolution comes first and nothing else reads the normalized image."""
    torch.manual_seed(1)
    network, image = Network(Stem(model, stem), contract).eval(), image_of(contract)
    exported = export_network(network, contract, batch=1)
    assert ("Gather" in operators(exported)) is not (isinstance(stem, nn.Conv2d) and stem.groups == 1)
    assert_equal_heads(heads_of(exported, image), torch_heads(network, image))
