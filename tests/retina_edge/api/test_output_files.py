"""Outputs are checked before any work: no input is overwritten, and a file that cannot be written is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import export.torch_export
import retina_edge.build
import retina_edge.convert
import retina_edge.evaluate
import retina_edge.export
import retina_edge.train
from engines.core.errors import SinkError
from engines.tensorrt.passport import passport_path
from retina_edge import api
from retina_edge.api import building, evaluating, training_data
from retina_edge.api.conversion import Conversion
from retina_edge.assets import MODEL
from retina_edge.data.load import load_dataset
from retina_edge.system.output_file import check_output

Write = Callable[[Path], object]


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if any work begins."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(Conversion, "prepare", fail)
    monkeypatch.setattr(export.torch_export, "export_onnx", fail)
    monkeypatch.setattr(building, "build_engine", fail)
    monkeypatch.setattr(training_data, "load_dataset", fail)
    monkeypatch.setattr(evaluating, "_detect", fail)


def writers(model: Path, annotations: Path) -> dict[str, Write]:
    """Return a function for each writer of a model, from the output to the call."""
    data = api.TrainingData(annotations, annotations.parent, annotations)
    return {
        ".onnx": lambda output: api.export(model, output),
        ".engine": lambda output: api.build(model, output),
        ".pt": lambda output: api.train(data, output),
    }


@pytest.mark.parametrize("suffix", [".onnx", ".engine", ".pt"])
def test_folders_other_suffixes_and_unusable_folders_are_refused(suffix: str, tmp_path: Path) -> None:
    write = writers(tmp_path / "no.pt", tmp_path / "no.json")[suffix]
    (tmp_path / "file").write_text("")
    for output in (tmp_path, Path()):
        with pytest.raises(SinkError, match=f"expected a file ending in {suffix}, got the folder .*; add the name"):
            write(output)
    for name in ("model", "model.plan", "model.pt.bak", f"model{suffix.upper()}"):
        with pytest.raises(SinkError, match=rf"expected a file ending in {suffix}, got .*{name}; change the name"):
            write(tmp_path / name)
    with pytest.raises(
        SinkError, match=rf"expected a folder that m{suffix} can be written to, got .*file; use another"
    ):
        write(tmp_path / "file" / "more" / f"m{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SinkError, match="expected a folder that"):
        check_output("output", tmp_path / "new" / "m.onnx")


@pytest.mark.parametrize("name", ["same", "./same", "link", "hard"])
def test_an_input_is_recognized_under_every_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "same").write_text("input")
    (tmp_path / "link").symlink_to("same")
    (tmp_path / "hard").hardlink_to(tmp_path / "same")
    with pytest.raises(SinkError, match=r"output: .* would overwrite the checkpoint .*same; use another name"):
        check_output("output", f"{tmp_path}/{name}", inputs=[("model", None), ("checkpoint", tmp_path / "same")])
    check_output("output", tmp_path / "new", inputs=[("checkpoint", tmp_path / "same"), ("model", tmp_path / "none")])


def test_no_function_overwrites_its_inputs(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("m.pt", "m.onnx", "m.engine", "m.last.pt", "m.csv", "m.engine.json")}
    for path in paths.values():
        path.write_bytes(b"precious")
    data = api.TrainingData("train.json", "images", "val.json")
    int8 = api.ExportOptions(precision="int8")
    budget = api.AccuracyOptions(0.5, paths["m.engine.json"])
    for write, word in (
        (lambda: api.export(paths["m.onnx"], paths["m.onnx"]), "checkpoint"),
        (lambda: api.export("m.pt", paths["m.onnx"], int8, calibration=paths["m.onnx"]), "calibration set"),
        (lambda: api.build(paths["m.engine"], paths["m.engine"]), "model"),
        (lambda: api.build("m.pt", paths["m.engine"], accuracy=budget), "annotations"),
        (
            lambda: api.build(paths["m.pt"], tmp_path / "n.engine", api.BuildOptions(timing_cache=paths["m.pt"])),
            "model",
        ),
        (lambda: api.train(data, paths["m.pt"], init=paths["m.pt"]), "checkpoint"),
        (lambda: api.train(data, paths["m.pt"], qat=paths["m.pt"]), "checkpoint"),
        (lambda: api.train(data, paths["m.pt"], init=paths["m.last.pt"]), "checkpoint"),
        (lambda: api.train(api.TrainingData(paths["m.csv"], "i", "v"), paths["m.pt"]), "annotations"),
    ):
        with pytest.raises(SinkError, match=f"would overwrite the {word}"):
            write()
    assert {path.read_bytes() for path in paths.values()} == {b"precious"}


def test_no_verb_overwrites_its_inputs(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(treecrowns / "images", folder)
    annotations = shutil.copy(tiny_coco, tmp_path / "a.json")
    passport = passport_path(tmp_path / "m.engine")
    model = tmp_path / "m.pt"
    for path in (model, passport, tmp_path / "m.onnx"):
        path.write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    image = load_dataset(tiny_coco, folder).images[0].path
    evaluate = [str(tmp_path / "m.engine"), str(annotations), "--images", str(folder)]
    for main, arguments in (
        (retina_edge.export.main, [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.onnx")]),
        (
            retina_edge.convert.main,
            [str(model), "-o", str(model), "--arch", "retinanet_resnet50_fpn", "--input", "64x64"],
        ),
        (retina_edge.evaluate.main, [*evaluate, "--json", str(annotations)]),
        (retina_edge.evaluate.main, [*evaluate, "--json", str(passport)]),
        (retina_edge.evaluate.main, [str(MODEL), *evaluate[1:], "--json", str(image)]),
        (retina_edge.evaluate.main, [*evaluate, "--json", str(model), "--against", str(model)]),
        (
            retina_edge.train.main,
            [str(annotations), "--images", "i", "--val", "v", "-o", str(model), "--init", str(model)],
        ),
    ):
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert " would overwrite the " in error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_evaluation_refuses_outputs_that_cannot_be_written(
    tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    evaluate = ["m.onnx", str(tiny_coco), "--images", str(tmp_path)]
    for options, message in (
        (["--json", str(tmp_path)], "--json: expected a file, got the folder"),
        (["--json", str(tmp_path / "file" / "r.json")], "--json: expected a folder that r.json can be written to"),
        (["--against", "o.onnx", "--report", str(tmp_path / "file")], "--report: expected a folder that index.html"),
    ):
        assert retina_edge.evaluate.main([*evaluate, *options]) == 1
        assert message in capsys.readouterr().err
