"""``retina-edge build`` from a checkpoint and from an ONNX, in every precision, and its errors."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from engines.onnx.deployable import convolution_precisions
from engines.tensorrt.passport import passport_path, read_engine
from export.precision.calibration import audit
from export.precision.conversion import Calibration, convert_file
from retina_edge.assets import MODEL
from retina_edge.build import main
from retina_edge.imaging.image_file import read_image

pytestmark = pytest.mark.start_first


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty calibration cache in place of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "retina_edge" / "calibration"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "out" / "tiny.engine"


def files_beside(engine: Path) -> list[str]:
    """Return the names of the files in the engine's folder."""
    return sorted(path.name for path in engine.parent.iterdir()) if engine.parent.is_dir() else []


def build(*arguments: object) -> int:
    return main([*map(str, arguments), "--backend", "tensorrt-rtx"])


def test_an_fp32_engine_is_built_from_a_checkpoint(
    checkpoint: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(checkpoint, "-o", engine, "--target", "sm86,sm89") == 0
    printed = capsys.readouterr()
    assert f"{engine}  {engine.stat().st_size / 1e6:.1f} MB, fp32, for sm86, sm89, tensorrt-rtx" in printed.out
    assert "(read from the parsed network); post-processing: kernels" in printed.out
    assert "network verified: compared with torch, images 4" in printed.out
    assert "engine not run: this machine has no NVIDIA GPU\n" in printed.out
    assert "built in " in printed.out
    assert printed.err == ""
    assert files_beside(engine) == ["tiny.engine", "tiny.engine.json"]
    passport = read_engine(engine)
    assert passport.targets == ("sm86", "sm89")
    assert passport.verified is not None
    assert passport.verified["compared with"] == "torch"
    assert passport.contract.class_names == ("tree",)


def test_an_fp16_engine_is_built_from_an_fp32_onnx(
    tiny_onnx: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(tiny_onnx, "-o", engine, "--precision", "fp16") == 0
    printed = capsys.readouterr().out
    assert "fp16, for portable" in printed
    assert "runs on a desktop GPU of compute capability 8.0, 8.6, 8.9 or 12.x (not a Jetson)\n" in printed
    passport = read_engine(engine)
    assert set(passport.convolutions.values()) == {"fp16"}
    assert passport.contract.precision == "fp16"
    assert passport.verified is not None
    assert passport.verified["signal to noise dB"] > 30
    assert passport.verified["detections"] > 10


def test_an_int8_engine_is_built_again_only_if_something_changed(
    tiny_onnx: Path, engine: Path, treecrowns: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [tiny_onnx, "-o", engine, "--precision", "int8", "--calibration", treecrowns / "val.json"]
    assert build(*arguments) == 0
    printed = capsys.readouterr()
    assert (
        printed.err == "calibration: only 16 images: ranges from fewer than 64 images depend on the choice of images\n"
    )
    passport = read_engine(engine)
    assert passport.quantization is not None
    assert (passport.quantization["layout"], passport.quantization["images"]) == ("tensorrt", 16)
    assert set(passport.precision_found["convolution"]) == {"fp16", "int8"}
    assert len(list(cache.iterdir())) == 1
    # The same command finds the engine; other calibration images need another engine.
    assert build(*arguments) == 0
    assert "already there, built from the same model and options" in capsys.readouterr().out
    assert build(*arguments, "--calibration-images", 12) == 0
    assert "built in " in capsys.readouterr().out
    assert len(list(cache.iterdir())) == 2
    assert build(*arguments, "--calibration-images", 12, "--force") == 0
    assert "built in " in capsys.readouterr().out


def test_an_int8_onnx_needs_no_calibration_images(
    tiny_onnx: Path, treecrowns: Path, engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = sorted((treecrowns / "images").iterdir())
    int8 = {}
    for layout in ("tensorrt", "cpu"):
        int8[layout] = tmp_path / f"{layout}.onnx"
        calibration = Calibration(audit(images, read_image), layout, "minmax")
        convert_file(tiny_onnx, int8[layout], "int8", images=[read_image(images[0])], calibration=calibration)
    converted = Counter(convolution_precisions(onnx.load(int8["tensorrt"])).values())
    assert converted["int8"] > converted["fp16"] > 0
    arguments = [int8["tensorrt"], "-o", engine, "--precision", "int8", "--target", "sm86"]
    assert build(*arguments) == 0
    assert read_engine(engine).precision_found["convolution"] == converted
    capsys.readouterr()
    assert build(*arguments, "--calibration", treecrowns / "images") == 1
    assert (
        "calibration: expected a conversion to int8, got a model that is int8 already; leave it out"
        in capsys.readouterr().err
    )
    engine.unlink()
    passport_path(engine).unlink()
    assert build(int8["cpu"], "-o", engine, "--precision", "int8") == 1
    assert "layout: expected an INT8 ONNX for TensorRT, got one for cpu; export it again" in capsys.readouterr().err
    assert build(*arguments, "--compare-fp16") == 1  # no FP16 engine can be built from it
    assert "compare_fp16: expected an INT8 engine of a checkpoint or an fp32 ONNX" in capsys.readouterr().err
    assert files_beside(engine) == []


@pytest.mark.parametrize("options", [[], ["--no-check"]])
def test_a_comparison_of_an_engine_that_is_not_int8_is_refused(
    tiny_onnx: Path, engine: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert build(tiny_onnx, "-o", engine, "--precision", "fp16", "--compare-fp16", *options) == 1
    without = " without a check" if options else ""
    assert f"got fp16 of a model in fp32{without}; leave compare_fp16 out" in capsys.readouterr().err
    assert files_beside(engine) == []


def test_an_engine_has_a_dynamic_or_a_fixed_batch(tiny_onnx: Path, engine: Path) -> None:
    assert build(tiny_onnx, "-o", engine, "--batch", 2, "--max-batch", 8) == 0
    passport = read_engine(engine)
    assert passport.batch == (1, 2, 8)
    assert passport.inputs[0]["shape"][0] == -1
    assert build(tiny_onnx, "-o", engine, "--batch", 4) == 0
    assert read_engine(engine).inputs[0]["shape"][0] == 4


def test_other_images_to_verify_with_need_another_build(
    checkpoint: Path, engine: Path, treecrowns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(checkpoint, "-o", engine) == 0
    assert build(checkpoint, "-o", engine, "--verify", treecrowns / "images") == 0
    assert "network verified: compared with torch, images 8" in capsys.readouterr().out
    assert build(MODEL, "-o", engine, "--verify", treecrowns / "images") == 1
    assert "which goes into the engine unchanged, in fp32; leave verify out" in capsys.readouterr().err
    assert read_engine(engine).verified is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "batch: expected at least 1, got 0"),
        (["--target", "sm60"], "targets: expected one of sm75, sm80, sm86, sm89, sm120, sm121, portable, current, got"),
        (["--target", "current"], "targets: expected a GPU in this machine for current, found none; name an"),
        (["--max-batch", "0"], "max_batch: expected at least 1 (the batch), got 0"),
        (
            ["--postprocess", "plugin"],
            "postprocess plugin: tensorrt-rtx does not support this option; leave it out or use",
        ),
        (["--dla", "0", "--precision", "fp16"], "dla: tensorrt-rtx does not support this option"),
        (
            ["--precision", "int8"],
            "calibration: expected images for int8, got none; give a folder of images or a COCO file",
        ),
        (
            ["--precision", "fp16", "--calibration", "."],
            "expected a conversion to int8, got precision fp16",
        ),
        (["--verify", "nowhere.jpg"], "nowhere.jpg"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(
    checkpoint: Path,
    engine: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    from engines.core.machine import Machine

    monkeypatch.setattr("engines.tensorrt.build_request.this_machine", Machine)
    assert build(checkpoint, "-o", engine, *arguments) == 1
    assert_one_line(capsys.readouterr(), message)
    assert files_beside(engine) == []


def test_tensorrt_rtx_is_refused_on_a_gpu_that_it_does_not_support(
    checkpoint: Path, engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines.core.machine import Machine

    h200 = Machine("NVIDIA H200", "9.0", "580.159.04")
    monkeypatch.setattr("engines.tensorrt.build_request.this_machine", lambda: h200)
    monkeypatch.setattr("retina_edge.api.engine_source.EngineSource.network", lambda *_: pytest.fail("too late"))
    assert build(checkpoint, "-o", engine, "--backend", "tensorrt-rtx") == 1
    assert_one_line(
        capsys.readouterr(), "found NVIDIA H200 (compute capability 9.0); use TensorRT on this GPU, or name"
    )
    assert files_beside(engine) == []


def assert_one_line(printed: Any, message: str) -> None:
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_an_unusable_calibration_set_is_refused(
    checkpoint: Path, engine: Path, tmp_path: Path, treecrowns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    arguments = [checkpoint, "-o", engine, "--precision", "int8", "--calibration"]

    def refused(path: Path, message: str) -> None:
        assert build(*arguments, path) == 1
        assert_one_line(capsys.readouterr(), message)
        assert files_beside(engine) == []

    refused(folder, f"{folder}: expected images to calibrate with, found none")
    refused(tmp_path / "nowhere", "nowhere: expected a folder of images, a COCO file ending in .json, or")
    refused(tmp_path / "nowhere.json", "nowhere.json: expected a COCO JSON file, found no file")
    for number, file in enumerate(sorted((treecrowns / "images").iterdir())[:7]):
        shutil.copy(file, folder / f"{number}.jpg")
    shutil.copy(folder / "0.jpg", folder / "copy.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    refused(folder, "got 7; 1 unreadable, skipped: broken.jpg; 1 duplicate, skipped: copy.jpg")
    for content, message in (
        ("{", "expected COCO JSON, got text that cannot be parsed"),
        ("[]", "expected a COCO file, an object with images as lists; images is missing or not a list"),
        ('{"images": [{}]}', "images[0]: expected an object with file_name, got {}"),
        ('{"images": [{"file_name": "gone.jpg"}]}', "expected images such as gone.jpg in one of"),
    ):
        (tmp_path / "coco.json").write_text(content)
        refused(tmp_path / "coco.json", message)


def test_a_foreign_or_corrupt_model_is_refused(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = onnx.load(MODEL)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    for name, message in (
        ("nowhere.onnx", "nowhere.onnx: expected a model, found no file"),
        ("model.h5", "model.h5: expected a model ending in .pt or .onnx, got '.h5'"),
        ("bare.onnx", "bare.onnx: expected the contract in the ONNX metadata"),
        ("text.onnx", "text.onnx: expected an ONNX model, got 5 bytes that are not one"),
        ("text.pt", "text.pt"),
        ("other.pt", "other.pt"),
    ):
        assert build(tmp_path / name, "-o", engine) == 1, name
        assert_one_line(capsys.readouterr(), message)
        assert files_beside(engine) == []


def test_an_output_that_cannot_be_written_is_an_error(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert build(tiny_onnx, "-o", tmp_path / "file" / "m.engine") == 1
    assert_one_line(capsys.readouterr(), "file")
    (tmp_path / "folder.engine").mkdir()
    assert build(tiny_onnx, "-o", tmp_path / "folder.engine") == 1
    assert_one_line(capsys.readouterr(), "folder.engine")
    assert not list((tmp_path / "folder.engine").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.engine"]


def test_a_full_disk_leaves_the_old_engine(
    tiny_onnx: Path, engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert build(tiny_onnx, "-o", engine, "--target", "sm86") == 0
    before = engine.read_bytes()
    capsys.readouterr()
    monkeypatch.setattr(os, "fsync", no_space)
    assert build(tiny_onnx, "-o", engine, "--target", "sm89") == 1
    assert_one_line(capsys.readouterr(), "No space left on device")
    assert files_beside(engine) == ["tiny.engine", "tiny.engine.json"]
    assert engine.read_bytes() == before
    assert read_engine(engine).targets == ("sm86",)


@pytest.mark.parametrize("moment", [pytest.param("calibrating", marks=pytest.mark.slow), "building"])
def test_ctrl_c_leaves_no_files(engine: Path, calibration_folder: Path, tmp_path: Path, moment: str) -> None:
    """The signal arrives in the middle of the work, which takes seconds."""
    command = [sys.executable, "-m", "retina_edge.build", str(MODEL), "-o", str(engine), "--backend", "tensorrt-rtx"]
    if moment == "calibrating":
        command += ["--precision", "int8", "--calibration", str(calibration_folder)]
    else:
        command += ["--optimization-level", "5", "--target", "sm75,sm80,sm86,sm89,sm120"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    engine.parent.mkdir()
    deadline = time.monotonic() + 60
    if moment == "building":  # a temporary file appears just before
        while not files_beside(engine) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
    else:
        time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == "interrupted\n"
    assert files_beside(engine) == []
    assert not list((tmp_path / "cache").rglob("*.json"))
