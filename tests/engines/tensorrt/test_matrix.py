"""Tests of networks in every precision for every target, built by TensorRT-RTX: the parsed network and the size."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.core.tensor_names import head_names
from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.builder import build_engine
from retina_edge.model.config import ModelConfig
from tests.engines.tensorrt.conftest import Frames, export_precisions

pytestmark = pytest.mark.start_first

BACKBONES = ("resnet18", "resnet50")
TARGETS = ("sm75", "sm86", "sm89", "sm120", "portable")
PRECISIONS = ("fp32", "fp16", "int8")
# Convolutions that are not in INT8: the first one, and the last one of each of the two heads on five levels.
KEPT = 1 + 2 * 5
# Largest size of the plan, as a fraction of the FP32 plan. The weights are a half and a quarter, and the kernels and
# the convolutions kept in FP16 add to that. Measured: 0.51 to 0.53 in FP16, and 0.36 (R50) to 0.42 (R18) in INT8.
SIZES = {"fp16": 0.55, "int8": 0.45}


@pytest.fixture(scope="module", params=["small", *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES)])
def models(
    request: pytest.FixtureRequest,
    small_models: Path,
    frames: Frames,
    treecrowns: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the deployable ONNX of one network in each precision."""
    if request.param == "small":
        return small_models
    folder = tmp_path_factory.mktemp("matrix")
    export_precisions(ModelConfig(num_classes=91, backbone=request.param), folder, frames, treecrowns / "images")
    return folder


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=() if name in ("sm86", "portable") else pytest.mark.slow) for name in TARGETS]
)
def test_every_precision_builds_as_requested(models: Path, target: str, tmp_path: Path) -> None:
    sizes = {}
    for precision in PRECISIONS:
        options = BuildOptions(precision=precision, backend="tensorrt-rtx", targets=(target,))
        passport = build_engine(models / f"{precision}.onnx", tmp_path / f"{precision}.engine", options).passport
        sizes[precision] = passport.plan_bytes
        convolutions = list(passport.convolutions.values())
        assert passport.targets == (target,)
        assert passport.precision_source == "parsed network"
        assert passport.precision_found["convolution"] == {
            kind: convolutions.count(kind) for kind in sorted(set(convolutions))
        }
        if precision == "int8":
            assert (convolutions.count("int8"), convolutions.count("fp16")) == (len(convolutions) - KEPT, KEPT)
        else:
            assert set(convolutions) == {precision}
        contract = passport.contract
        assert [tensor["name"] for tensor in passport.outputs] == head_names(len(contract.levels))
        assert [tuple(tensor["shape"]) for tensor in passport.outputs] == [
            (1, 9 * rows, *level.feature_size) for rows in (91, 4) for level in contract.levels
        ]
        assert {tensor["type"] for tensor in passport.outputs} == {"float" if precision == "fp32" else "half"}
    for precision, largest in SIZES.items():
        assert sizes[precision] <= largest * sizes["fp32"], sizes
