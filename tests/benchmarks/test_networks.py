"""Random weights with as many candidates as trained weights, and models that are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

from benchmarks import building
from benchmarks.building import build_once, convert_once
from benchmarks.detectors import BACKBONES, RETINANET, retinanet_of
from benchmarks.end_to_end import Case, candidates
from benchmarks.forest_frame import FRAME_SIZE, forest_frame
from benchmarks.networks import (
    CANDIDATES,
    MAX_CANDIDATES,
    MIN_CANDIDATES,
    as_torch,
    class_logits,
    count_candidates,
    export_once,
    lively_r50,
    random_retinanet,
)
from engines.core.errors import BuildError, DeviceError
from engines.core.machine import Machine
from engines.tensorrt.build_options import PORTABLE, BuildOptions
from retina_edge import Detector
from retina_edge.model.config import ModelConfig

SIZE = 320


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    return lively_r50(SIZE)


def raw_logits(model: RetinaNet, frame: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
    with torch.inference_mode():
        return [level.numpy() for level in class_logits(model, as_torch(frame, (SIZE, SIZE)))]


def test_the_network_has_realistic_candidates_on_several_levels_and_in_many_classes(model: RetinaNet) -> None:
    logits = raw_logits(model, forest_frame())
    assert count_candidates(logits) == pytest.approx(CANDIDATES, abs=2)
    passed = [np.argwhere(level[0] > np.log(0.05 / 0.95)) for level in logits]
    assert sum(len(level) > 10 for level in passed) >= 3
    classes = {int(channel) % 91 for level in passed for channel, _, _ in level}
    assert len(classes) > 20


def test_another_image_has_a_realistic_number_of_candidates(model: RetinaNet) -> None:
    mirrored = np.ascontiguousarray(forest_frame()[:, ::-1])
    assert MIN_CANDIDATES <= count_candidates(raw_logits(model, mirrored)) <= MAX_CANDIDATES


@pytest.mark.parametrize("bias", [-10.0, 3.0])
def test_an_unrealistic_number_of_candidates_is_an_error(model: RetinaNet, bias: float) -> None:
    with pytest.raises(ValueError, match=rf"expected {MIN_CANDIDATES} to {MAX_CANDIDATES}, got \d+"):
        count_candidates([level + np.float32(bias) for level in raw_logits(model, forest_frame())])


def test_the_frame_has_the_requested_size() -> None:
    assert forest_frame().shape == (*FRAME_SIZE, 3)
    assert forest_frame((1080, 1920)).shape == (1080, 1920, 3)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_network_has_the_weights_of_torchvision_s_retinanet(name: str) -> None:
    """With weights of the same shapes, eager torch and the deployed detector run the same arithmetic."""
    expected = {key: value.shape for key, value in retinanet_of(BACKBONES[name]).state_dict().items()}
    weights = random_retinanet(ModelConfig(91, backbone=BACKBONES[name]), (64, 64))[0].state_dict()
    assert {key: value.shape for key, value in weights.items()} == expected


def test_retinanet_of_r50_matches_torchvision_s_own_function() -> None:
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in retinanet_of("resnet50").state_dict().items()
    }
    assert RETINANET.meta["_metrics"]["COCO-val2017"]["box_map"] == 36.4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(3, backbone="resnet18", fpn_channels=32, head_depth=1)
    model, contract = random_retinanet(config, (128, 128))
    return export_once(model, contract, tmp_path_factory.mktemp("tiny") / "tiny.onnx", forest_frame())


def test_an_existing_model_is_not_converted_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert convert_once(tiny, "fp32") == tiny
    half = convert_once(tiny, "fp16")
    assert half == tiny.with_name("tiny.fp16.onnx")
    before = half.stat().st_mtime_ns
    monkeypatch.setattr(building, "convert_file", lambda *_, **__: pytest.fail("converted again"))
    assert convert_once(tiny, "fp16") == half
    assert half.stat().st_mtime_ns == before


def test_an_engine_is_built_from_the_onnx_of_its_precision_portable_if_needed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[tuple[str, BuildOptions]] = []

    def build(model: Path, engine: Path, options: BuildOptions) -> None:
        assert engine == model.with_suffix(".engine")
        builds.append((model.name, options))
        if not options.targets:
            raise BuildError("no engines for this GPU")

    monkeypatch.setattr(building, "build_engine", build)
    assert build_once(tiny, "fp16") == tiny.with_name("tiny.fp16.engine")
    assert [(name, options.precision, options.targets) for name, options in builds] == [
        ("tiny.fp16.onnx", "fp16", ()),
        ("tiny.fp16.onnx", "fp16", (PORTABLE,)),
    ]


def test_an_error_that_a_portable_engine_cannot_avoid_is_raised(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise BuildError("the GPU is too new")

    monkeypatch.setattr(building, "build_engine", refuse)
    with pytest.raises(BuildError, match="too new"):
        build_once(tiny, "fp16")


def test_no_portable_engine_is_built_for_a_gpu_that_tensorrt_rtx_does_not_support(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.tensorrt.build_request.this_machine", lambda: Machine("NVIDIA H200", "9.0", "580"))
    with pytest.raises(DeviceError, match="use TensorRT on this GPU"):
        build_once(tiny, "fp16")


def test_a_real_engine_is_built_once(tiny: Path) -> None:
    engine = build_once(tiny, "fp16")
    before = engine.stat().st_mtime_ns
    assert build_once(tiny, "fp16").stat().st_mtime_ns == before


def test_a_random_retinanet_finds_nothing(tiny: Path) -> None:
    with Detector.load(tiny) as detector:
        assert len(detector(forest_frame(), score=detector.score_threshold)) == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_alternatives_are_candidates(device: str, model: RetinaNet, tmp_path: Path) -> None:
    case = Case(device, SIZE, forest_frame(), model, tmp_path / "r50.onnx")
    names = list(candidates(case))
    assert names[0] == "torchvision eager, FP32"
    expected = {
        "cpu": {"torchvision torch.compile, FP32", "ONNX Runtime by hand, FP32", "retina_edge on ONNX Runtime, INT8"},
        "cuda": {
            "torchvision eager, FP32 without TF32",
            *(f"torchvision {how}, {kind}" for how in ("eager", "torch.compile") for kind in ("FP16", "BF16")),
            "ONNX Runtime by hand, FP32",
            *(f"retina_edge engine, {kind}" for kind in ("FP32", "FP16", "INT8")),
            "retina_edge on torch, FP16",
        },
    }[device]
    assert expected <= set(names)
