"""Fixtures of the tests of TensorRT engines: a small network in every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from export.precision.calibration import audit
from export.precision.conversion import Calibration, convert
from export.torch_export import export_onnx
from retina_edge.imaging.image_file import read_image
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from tests.conftest import made_once
from tests.models import contract_of, lively

Frames = list[npt.NDArray[np.uint8]]
# A complete R18 with small heads: five levels, and weights that dominate the size of the plan.
SMALL = ModelConfig(num_classes=91, backbone="resnet18", fpn_channels=64, head_depth=1)
INPUT = (96, 128)


def export_precisions(config: ModelConfig, folder: Path, frames: Frames, images: Path) -> None:
    """Write ``fp32.onnx``, ``fp16.onnx`` and ``int8.onnx``: a network with random weights in each precision."""
    torch.manual_seed(0)
    model = lively(RetinaNet(config))
    export_onnx(model, contract_of(model, INPUT), folder / "fp32.onnx", batch=1, images=frames[:1])
    fp32 = onnx.load(folder / "fp32.onnx")
    half, _ = convert(fp32, "fp16", images=frames[:1])
    calibration = Calibration(audit(sorted(images.iterdir())[:8], read_image), "tensorrt", "minmax")
    int8, _ = convert(fp32, "int8", images=frames[:1], calibration=calibration)
    for precision, deployable in (("fp16", half), ("int8", int8)):
        onnx.save(deployable, folder / f"{precision}.onnx")


@pytest.fixture(scope="session")
def small_models(frames: Frames, treecrowns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the deployable ONNX of a small network in each precision; see ``export_precisions``."""
    return made_once(
        tmp_path_factory,
        "small models",
        lambda folder: export_precisions(SMALL, folder, frames, treecrowns / "images"),
    )
