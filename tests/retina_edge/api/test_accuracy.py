"""The accuracy budget on the command line: INT8 keeps it, keeps it after layers fall back, or is not written.

The labels are the detections of the FP32 model itself in real images, so FP32 has an AP of about 1, and a loss of INT8
shows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from engines.core.tensor_names import ACCURACY_KEY, QUANTIZATION_KEY
from engines.onnx.deployable import convolution_precisions, metadata_of
from engines.tensorrt.model_description import inspect_model
from engines.tensorrt.passport import read_engine
from export.torch_export import export_onnx
from retina_edge import build, export, inspect
from retina_edge.data.load import load_dataset
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import evaluate
from retina_edge.imaging.image_file import read_image
from retina_edge.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.start_first

# Labels per image, fewer than COCO counts, and their lowest score, which rounding cannot move below the threshold.
MOST, SURE = 50, 0.1
CUT = 0.01


@pytest.fixture(scope="module")
def images(treecrowns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with as few images as a calibration takes."""
    folder = tmp_path_factory.mktemp("images")
    for path in sorted((treecrowns / "images").iterdir())[:8]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "fp32.onnx"
    loaded = load_checkpoint(checkpoint)
    frames = [read_image(path) for path in sorted(images.iterdir())[:1]]
    export_onnx(loaded.build_model(), loaded.contract, path, batch=1, images=frames)
    return path


@pytest.fixture(scope="module")
def val(fp32: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with Detector.load(fp32) as detector:
        for number, path in enumerate(sorted(images.iterdir()), start=1):
            frame = read_image(path)
            records.append({"id": number, "file_name": path.name, "height": frame.shape[0], "width": frame.shape[1]})
            for row in detector(frame, score=SURE)[:MOST].to_coco(number):
                x, y, width, height = row["bbox"]
                x2, y2 = min(x + width, frame.shape[1]), min(y + height, frame.shape[0])
                box = [max(x, 0), max(y, 0), x2 - max(x, 0), y2 - max(y, 0)]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box})
    assert len(annotations) > 100
    path = tmp_path_factory.mktemp("val") / "val.json"
    categories = [{"id": 1, "name": "tree"}]
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture(params=["tensorrt", pytest.param("cpu", marks=pytest.mark.slow)])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def command(checkpoint: Path, images: Path, val: Path, tmp_path: Path, layout: str) -> list[str]:
    arguments = [checkpoint, "-o", tmp_path / "out" / "int8.onnx", "--precision", "int8", "--for", layout]
    arguments += ["--calibration", images, "--calibration-cache", tmp_path / "cache", "--images", images]
    return [*map(str, arguments), "--val", str(val), "--val-images", str(images)]


def sabotage(cache: Path, fp32: Path) -> str:
    """Shrink the cached range of the input of one convolution to a hundredth, and return the convolution's name."""
    graph = onnx.load(fp32).graph
    inputs = [name for node in graph.node for name in node.input]
    convolutions = [node for node in graph.node if node.op_type == "Conv"][1:]  # the first one is never INT8
    damaged = next(node for node in convolutions if inputs.count(node.input[0]) == 1)
    (path,) = cache.iterdir()
    ranges = json.loads(path.read_text())
    ranges[damaged.input[0]] = [CUT * bound for bound in ranges[damaged.input[0]]]
    path.write_text(json.dumps(ranges))
    return str(damaged.name)


def ap(model: Path, val: Path, images: Path) -> float:
    with Detector.load(model) as detector:
        return evaluate(detector, load_dataset(val, images)).metrics["AP"]


def test_a_sabotaged_layer_falls_back(
    command: list[str],
    layout: str,
    fp32: Path,
    val: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out" / "int8.onnx"
    assert export.main([*command, "--accuracy-budget", "100"]) == 0
    healthy = json.loads(metadata_of(onnx.load(output))[ACCURACY_KEY])
    assert [trial["kept"] for trial in healthy["trials"]] == [[]]
    lost = 100 * (healthy["ap_fp32"] - healthy["ap"])
    output.unlink()

    name = sabotage(tmp_path / "cache", fp32)
    points = str(lost + 1)
    assert export.main([*command, "--accuracy-budget", points, "--no-fallback"]) == 1
    error = capsys.readouterr().err
    assert f"expected at most {lost + 1:g} AP points less than fp32's" in error
    assert "layers may not fall back" in error
    assert list(output.parent.iterdir()) == []

    assert export.main([*command, "--accuracy-budget", points]) == 0
    printed = capsys.readouterr().out
    model = onnx.load(output)
    accuracy, record = (json.loads(metadata_of(model)[key]) for key in (ACCURACY_KEY, QUANTIZATION_KEY))
    assert len(accuracy["trials"]) > 1
    assert 100 * (accuracy["ap_fp32"] - accuracy["trials"][0]["ap"]) > lost + 1
    assert name in accuracy["trials"][-1]["kept"]
    assert set(accuracy["trials"][-1]["kept"]) <= set(record["kept"])
    assert convolution_precisions(model)[name] == ("fp16" if layout == "tensorrt" else "fp32")
    assert f"kept in fp16: {', '.join(accuracy['trials'][-1]['kept'])}" in printed
    assert "accuracy on 8 images" in printed
    assert accuracy["speed"] > 0
    assert ("estimated" if layout == "tensorrt" else "measured") in accuracy["speed_against"]
    # The AP in the file's own record is the AP that an evaluation measures.
    assert accuracy["ap"] == pytest.approx(ap(output, val, images), abs=1e-9)
    assert accuracy["ap_fp32"] == pytest.approx(ap(fp32, val, images), abs=1e-9)
    assert 100 * (accuracy["ap_fp32"] - accuracy["ap"]) <= lost + 1
    assert accuracy["data"]["images"] == 8
    assert len(accuracy["data"]["images_sha256"]) == len(accuracy["data"]["annotations_sha256"]) == 64
    assert inspect_model(output).accuracy == accuracy
    assert inspect.main([str(output)]) == 0
    assert "accuracy, ap_fp32" in capsys.readouterr().out


def test_a_passport_records_the_accuracy_and_another_budget_needs_another_build(
    fp32: Path, val: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "out" / "tiny.engine"
    arguments = [fp32, "-o", engine, "--precision", "fp16", "--backend", "tensorrt-rtx", "--target", "sm86"]
    command = [*map(str, arguments), "--val", str(val), "--val-images", str(images), "--accuracy-budget"]
    assert build.main([*command, "5"]) == 0
    passport = read_engine(engine)
    assert passport.accuracy is not None
    assert passport.accuracy["budget"] == 5
    assert passport.accuracy["ap_fp32"] > 0.95
    assert 100 * (passport.accuracy["ap_fp32"] - passport.accuracy["ap"]) < 5
    assert "accuracy on 8 images: within the budget of 5 AP points" in capsys.readouterr().out
    assert build.main([*command, "5"]) == 0
    assert "already there" in capsys.readouterr().out
    assert build.main([*command, "6"]) == 0
    assert "already there" not in capsys.readouterr().out
    assert inspect_model(engine).accuracy == read_engine(engine).accuracy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accuracy-budget", "0.5"], "needs labeled images to measure on: give --val"),
        (["--val", "val.json"], "--val belongs to --accuracy-budget"),
        (["--no-fallback"], "--no-fallback belongs to --accuracy-budget"),
        (["--precision", "fp32", "--accuracy-budget", "1", "--val", "val.json"], "expected a conversion from fp32"),
        (["--accuracy-budget", "1", "--val", "not_there.json"], "not_there.json"),
    ],
)
def test_contradicting_options_are_refused(
    fp32: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "tiny.engine"
    assert build.main([str(fp32), "-o", str(engine), "--precision", "fp16", *options]) == 1
    assert message in capsys.readouterr().err
    assert not engine.exists()


@pytest.mark.parametrize("points", ["-1", "101", "nan", "half"])
def test_a_budget_out_of_range_is_refused(checkpoint: Path, points: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        export.main([str(checkpoint), "-o", "x.onnx", f"--accuracy-budget={points}"])
    assert "expected AP points from 0 to 100" in capsys.readouterr().err


def test_a_data_set_without_the_classes_of_the_model_is_refused(
    fp32: Path, val: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(val.read_text())
    content["categories"][0]["name"] = "house"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    arguments = [fp32, "-o", tmp_path / "tiny.engine", "--precision", "fp16", "--accuracy-budget", "1", "--val", other]
    assert build.main([*map(str, arguments), "--val-images", str(images)]) == 1
    assert "no category is a class of the model" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["classes", "batch"])
def test_wrong_classes_or_batches_are_refused_before_calibration(
    fp32: Path,
    val: Path,
    images: Path,
    tmp_path: Path,
    wrong: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def calibrated(*_: object, **__: object) -> None:
        raise AssertionError("calibrated already")

    monkeypatch.setattr("export.precision.conversion.collect_ranges", calibrated)
    if wrong == "classes":
        houses = val.read_text().replace('"tree"', '"house"')
        val = tmp_path / "other.json"
        val.write_text(houses)
    arguments = [fp32, "-o", tmp_path / "tiny.engine", "--precision", "int8", "--calibration", images]
    arguments += ["--accuracy-budget", "1", "--val", val, "--val-images", images]
    if wrong == "batch":
        arguments += ["--batch", "2"]
    assert build.main(list(map(str, arguments))) == 1
    message = (
        "no category is a class of the model"
        if wrong == "classes"
        else "batch: expected an ONNX of batch size 2, got one of 1"
    )
    assert message in capsys.readouterr().err
