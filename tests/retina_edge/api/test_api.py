"""Tests of ``retina_edge.api``: paths as text, the same results as the verbs, and errors for Python users."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import retina_edge.build
import retina_edge.evaluate
import retina_edge.export
import retina_edge.train
from engines.core.errors import BuildError, ContractError
from engines.tensorrt.passport import read_engine
from retina_edge import Detector, api
from retina_edge.api import building
from retina_edge.api.engine_check import SPEEDUP
from retina_edge.model.checkpoint import load_checkpoint


def test_every_name_is_importable() -> None:
    names: dict[str, object] = {}
    exec("from retina_edge.api import *", names)
    assert set(api.__all__) <= set(names)
    assert all(getattr(api, name).__module__.startswith(("retina_edge.", "engines.")) for name in api.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'deploy'"):
        api.deploy  # noqa: B018


def test_the_api_and_its_options_need_neither_torch_nor_onnx() -> None:
    """A machine that only detects has neither; the functions that need them import them when they are called."""
    code = (
        "import sys\nfrom retina_edge.api import *\nprint(sorted({'torch', 'onnx', 'tensorrt_rtx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_export_writes_what_the_verb_writes(checkpoint: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    options = api.ExportOptions(input_size=(96, 128), batch=2)
    result = api.export(
        str(checkpoint), str(tmp_path / "a.onnx"), options, progress=lambda step, _done, _total: steps.append(step)
    )
    assert (
        retina_edge.export.main([str(checkpoint), "-o", str(tmp_path / "b.onnx"), "--input", "96x128", "--batch", "2"])
        == 0
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert result.path == tmp_path / "a.onnx"
    assert (result.size, result.batch, result.drift) == (result.path.stat().st_size, 2, None)
    assert result.contract.input_size == (96, 128)
    assert result.agreement.detections > 0
    assert steps[0] == "exporting and verifying"


def test_build_and_the_verb_build_the_same_network(tiny_onnx: Path, tmp_path: Path) -> None:
    options = api.BuildOptions(precision="fp16", backend="tensorrt-rtx", targets=("sm86",))
    result = api.build(str(tiny_onnx), str(tmp_path / "a.engine"), options)
    command = [str(tiny_onnx), "-o", str(tmp_path / "b.engine"), "--precision", "fp16", "--target", "sm86"]
    assert retina_edge.build.main([*command, "--backend", "tensorrt-rtx"]) == 0
    other = read_engine(tmp_path / "b.engine")
    assert result.built
    assert result.engine == tmp_path / "a.engine"
    assert result.passport.precision_found == other.precision_found
    assert (result.passport.contract, result.passport.targets) == (other.contract, ("sm86",))
    assert not api.build(tiny_onnx, tmp_path / "a.engine", options).built


def test_an_engine_that_was_not_run_is_built_again_where_it_can_be_run(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = api.BuildOptions(backend="tensorrt-rtx", targets=("sm86",))

    def build(*, check: bool = True) -> api.BuildResult:
        return api.build(tiny_onnx, tmp_path / "a.engine", options, check=check)

    assert build(check=False).built
    assert not build().built  # this machine has no GPU
    monkeypatch.setattr(building, "why_not_here", lambda _request: "")
    monkeypatch.setattr(building, "EngineCheck", lambda *_: lambda _plan, _passport: {SPEEDUP: 1.05})
    assert not build(check=False).built
    result = build()
    assert (result.built, result.passport.checked) == (True, {SPEEDUP: 1.05})
    result = build()
    assert not result.built
    assert "only 1.05 times as fast as FP16" in result.findings[0]  # also of an engine that is kept


def test_evaluate_measures_what_the_verb_measures(
    tiny_onnx: Path, tiny_coco: Path, treecrowns: Path, tmp_path: Path
) -> None:
    done: list[int] = []
    result = api.evaluate(
        str(tiny_onnx),
        str(tiny_coco),
        str(treecrowns / "images"),
        api.EvaluationOptions(max_detections=20),
        on_image=lambda _model, count: done.append(count),
    )
    report = tmp_path / "report.json"
    arguments = [str(tiny_onnx), str(tiny_coco), "--images", str(treecrowns / "images"), "--max-detections", "20"]
    assert retina_edge.evaluate.main([*arguments, "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert written["metrics"] == json.loads(json.dumps(result.to_dict()))["metrics"]
    assert done == [4, 4, 4, 4]


def test_train_computes_what_the_verb_computes(tiny_coco: Path, treecrowns: Path, tmp_path: Path) -> None:
    images = treecrowns / "images"
    lines: list[str] = []
    model = api.ModelOptions(
        input_size=(64, 64),
        backbone="resnet18",
        backbone_levels=3,
        fpn_channels=32,
        head_depth=1,
        head_norm="group",
        anchor_sizes=(32, 64, 128),
    )
    result = api.train(
        api.TrainingData(str(tiny_coco), str(images), str(tiny_coco)),
        str(tmp_path / "a.pt"),
        api.TrainOptions(epochs=1, epoch_samples=2, batch=2, workers=0, seed=3),
        model=model,
        augment=api.AugmentOptions(),
        device="cpu",
        on_message=lines.append,
    )
    command = [str(tiny_coco), "--images", str(images), "--val", str(tiny_coco), "-o", str(tmp_path / "b.pt")]
    command += "--epochs 1 --epoch-samples 2 --batch 2 --workers 0 --seed 3 --device cpu --input 64x64".split()
    command += "--backbone resnet18 --backbone-levels 3 --fpn-channels 32 --head-depth 1 --head-norm group".split()
    assert retina_edge.train.main([*command, "--anchors", "32", "64", "128", "--recipe", "paper"]) == 0
    assert result.checkpoint == tmp_path / "a.pt"
    assert 0 <= result.best_ap <= 1
    weights = [load_checkpoint(tmp_path / name).build_model().state_dict() for name in ("a.pt", "b.pt")]
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value.numpy(), weights[1][name].numpy(), err_msg=name)
    with Detector.load(str(result.checkpoint), device="cpu") as detector:
        assert detector.contract.input_size == (64, 64)


def test_an_error_names_the_parameter_of_the_function(
    checkpoint: Path, tiny_onnx: Path, treecrowns: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m.onnx"
    calibration = api.CalibrationOptions(str(tmp_path))
    with pytest.raises(ContractError, match="half_weights"):
        api.ExportOptions(precision="fp16", half_weights=True)
    with pytest.raises(ContractError, match="layout"):
        api.ExportOptions(layout="cpu")
    with pytest.raises(ContractError, match="calibration: expected a conversion to int8, got precision fp16"):
        api.export(checkpoint, output, api.ExportOptions(precision="fp16"), calibration=calibration)
    with pytest.raises(ContractError, match="calibration: expected images"):
        api.export(checkpoint, output, api.ExportOptions(precision="int8"))
    with pytest.raises(BuildError, match="verify: expected a model to convert"):
        api.build(tiny_onnx, tmp_path / "m.engine", verify=[treecrowns / "images"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_is_calibrated_with_a_folder_given_as_text(checkpoint: Path, treecrowns: Path, tmp_path: Path) -> None:
    calibration = api.CalibrationOptions(str(treecrowns / "images"), calibrator="minmax", cache=None)
    options = api.ExportOptions(precision="int8", layout="tensorrt")
    result = api.export(checkpoint, tmp_path / "m.onnx", options, calibration=calibration)
    assert result.contract.precision == "int8"
    assert result.drift is not None
    assert result.findings
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(result.path).graph.node)
