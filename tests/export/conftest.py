"""Fixtures for the export tests: a small model with many detections, and its exports, made once."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from engines.core.contract import DetectorContract
from export.network import Network, export_network
from export.torch_export import ExportReport, export_onnx
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively

Frames = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="package")
def model() -> RetinaNet:
    torch.manual_seed(0)
    return lively(RetinaNet(dataclasses.replace(TINY, num_classes=3)))


@pytest.fixture(scope="package")
def contract(model: RetinaNet) -> DetectorContract:
    return contract_of(model)


@pytest.fixture(scope="package")
def network(model: RetinaNet, contract: DetectorContract) -> Network:
    return Network(model, contract).eval()


@pytest.fixture(scope="package")
def exported(network: Network, contract: DetectorContract) -> onnx.ModelProto:
    """The exported network: raw heads out, batch of one."""
    return export_network(network, contract, batch=1)


@pytest.fixture(scope="package")
def report(
    model: RetinaNet, contract: DetectorContract, frames: Frames, tmp_path_factory: pytest.TempPathFactory
) -> ExportReport:
    """The report of an export with the default batch size, one."""
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    return export_onnx(model, contract, path, batch=1, images=frames)
