"""``retina-edge deploy deepstream``: its files, and its library compiled and run with stand-ins for the headers."""

from __future__ import annotations

import configparser
import dataclasses
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.tensorrt.passport import read_engine
from retina_edge.assets import MODEL
from retina_edge.deploy import main
from retina_edge.deployment.deepstream import COMPILE, LIBRARY, SOURCE
from retina_edge.deployment.deployable_model import DeployableModel
from tests.retina_edge.deployment.deployables import write_engine
from tests.stand_in import contract

STAND_IN = Path(__file__).parent / "deepstream_stand_in"
# Values of NvDsPreProcessFormat, and the positions of red, green and blue in a pixel.
FORMATS = {"RGB": (0, (0, 1, 2)), "BGR": (1, (2, 1, 0)), "RGBA": (3, (0, 1, 2)), "BGRx": (4, (2, 1, 0))}
GRAY = 2
# The session prints numbers with six digits.
TOLERANCE = 1e-4


def deploy(*arguments: object) -> int:
    return main(["deepstream", *map(str, arguments)])


def read(path: Path) -> configparser.ConfigParser:
    """Read a GKeyFile as DeepStream does. A repeated key is an error."""
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None, strict=True)
    parser.read_string(path.read_text())
    return parser


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library, with sanitizers, into a program that calls it as DeepStream would."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to compile the library for DeepStream")
    folder = tmp_path_factory.mktemp("deepstream")
    engine = write_engine(folder)
    assert deploy(engine, "-o", folder / "out") == 0
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    command += ["-fno-sanitize-recover=all", "-o", str(folder / "session")]
    run = subprocess.run(
        [*command, f"-I{STAND_IN}", f"-I{folder / 'out'}", str(STAND_IN / "session.cpp")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return folder / "session"


def call(session: Path, *words: str, numbers: Sequence[float]) -> subprocess.CompletedProcess[str]:
    text = " ".join(map(repr, map(float, numbers)))
    return subprocess.run([session, *words], input=text, capture_output=True, text=True, check=False)


def test_the_folder_holds_engine_configurations_library_and_readme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_contract = dataclasses.replace(contract(), precision="fp16", score_threshold=0.25)
    engine = write_engine(tmp_path, batch=(4, 4, 4), contract=model_contract)
    assert deploy(engine, "-o", tmp_path / "out", "--streams", 6) == 0
    assert "not tested there yet" in capsys.readouterr().out
    out = tmp_path / "out"
    assert read_engine(out / "model.engine").contract == model_contract
    assert (out / "labels.txt").read_text() == "patch\nother\n"
    infer, preprocess = read(out / "config_infer_retina_edge.txt"), read(out / "config_preprocess_retina_edge.txt")
    properties = dict(infer["property"])
    for key, value in {
        "network-mode": "2",
        "batch-size": "4",
        "num-detected-classes": "2",
        "input-tensor-from-meta": "1",
        "network-input-order": "1",
        "infer-dims": "3;64;96",
        "model-color-format": "1",
        "cluster-mode": "4",
        "output-blob-names": "num_detections;boxes;scores;labels",
    }.items():
        assert properties[key] == value, key
    for key in ("model-engine-file", "labelfile-path"):
        assert (out / properties[key]).is_file()
    assert dict(infer["class-attrs-all"]) == {"pre-cluster-threshold": "0.25", "topk": "4"}
    prepare, source = dict(preprocess["property"]), (out / SOURCE).read_text()
    for key, value in {
        "network-input-shape": "4;64;96;3",
        "network-input-order": "1",
        "network-color-format": "1",
        "tensor-data-type": "1",
        "tensor-name": "images",
        "processing-width": "96",
        "processing-height": "64",
        "maintain-aspect-ratio": "1",
        "symmetric-padding": "0",
        "target-unique-ids": properties["gie-unique-id"],
    }.items():
        assert prepare[key] == value, key
    assert preprocess["group-0"]["src-ids"] == "0;1;2;3;4;5"
    functions = (
        properties["parse-bbox-func-name"],
        prepare["custom-tensor-preparation-function"],
        preprocess["group-0"]["custom-input-transformation-function"],
    )
    for function in functions:
        assert f" {function}(" in source
    assert {Path(item["custom-lib-path"]).name for item in (properties, prepare)} == {LIBRARY}
    readme = (out / "README.md").read_text()
    assert "**retina_edge has not been tested with DeepStream.**" in readme
    assert COMPILE in readme


def test_the_source_is_installed_with_the_package() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert '"deployment/*.cu"' in text


@pytest.mark.parametrize("kind", ["an ONNX", "an engine that outputs raw heads"])
def test_only_engines_that_output_boxes_are_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    model = MODEL if kind == "an ONNX" else write_engine(tmp_path, postprocess="kernels")
    assert deploy(model, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"got {kind}" in error
    assert "--postprocess plugin" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_engine_may_already_be_in_the_folder(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    before = engine.read_bytes()
    assert deploy(engine, "-o", tmp_path) == 0
    assert engine.read_bytes() == before
    assert DeployableModel.read(engine).batch == 1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("frames", "size", "slack"), [(1, (3, 5), 0), (2, (20, 33), 7)])
def test_frames_become_the_engines_input(
    session: Path, name: str, frames: int, size: tuple[int, int], slack: int
) -> None:
    code, (red, green, blue) = FORMATS[name]
    height, width = size
    channels = len(name)
    pitch = width * channels + slack
    surfaces: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (frames, height, pitch), np.uint8)
    pixels = surfaces[:, :, : width * channels].reshape(frames, height, width, channels)
    run = call(session, "pack", numbers=[frames, height, width, pitch, code, 0, *surfaces.ravel()])
    assert run.returncode == 0, run.stderr
    status, values = run.stdout.split("\n")
    # The buffer stays acquired for the tensor, and the shape holds the number of frames.
    assert status.split() == ["0", "1", str(frames)]
    packed = np.array(values.split(), int).reshape(frames, height, width, 3)
    np.testing.assert_array_equal(packed, pixels[..., [blue, green, red]])


def test_errors_release_the_buffer(session: Path) -> None:
    failed = call(session, "pack", numbers=[1, 2, 2, 8, 3, 1, *[9] * 16])
    assert failed.stdout.split("\n")[0].split()[:2] == ["7", "0"]
    gray = call(session, "pack", numbers=[1, 2, 2, 8, GRAY, 0, *[9] * 16])
    assert gray.stdout.split("\n")[0].split()[:2] == ["5", "0"]
    assert "cannot become BGR" in gray.stderr


def test_a_configuration_without_uint8_and_nhwc_is_refused(session: Path) -> None:
    run = call(session, "refuse", numbers=[])
    assert run.returncode == 0
    assert run.stderr.count("expected tensor-data-type=1 (UINT8), network-input-order=1 (NHWC)") == 2


def parse(
    session: Path, rows: Sequence[tuple[Sequence[float], float, int]], *, count: int, thresholds: Sequence[float]
) -> list[list[float]]:
    """Parse rows (box, score, label) of a network with an input of 96×64 pixels, and return the objects."""
    boxes = [side for box, _, _ in rows for side in box]
    scores_and_labels = [*(score for _, score, _ in rows), *(label for _, _, label in rows)]
    numbers = [96, 64, len(thresholds), len(rows), count, *thresholds, *boxes, *scores_and_labels]
    run = call(session, "parse", numbers=numbers)
    assert run.returncode == 0, run.stderr
    return [list(map(float, line.split())) for line in run.stdout.splitlines()]


def test_outputs_become_objects(session: Path) -> None:
    rows = [
        ((10, 20, 30, 50), 0.9, 0),
        ((1.5, 2.25, 96, 64), 0.5, 1),  # exactly the threshold
        ((0, 0, 9, 9), 0.49, 1),  # below the threshold of its class
        ((0, 0, 9, 9), 0.49, 0),  # above the threshold of its class
        ((-3, -2, 5, 100), 0.8, 0),  # extends over the edges
        ((0, 0, 9, 9), 0.9, 2),  # unknown class
        ((0, 0, 9, 9), 0.9, -1),
        ((5, 5, 5, 9), 0.9, 0),  # no area
        ((0, 0, 9, 9), math.nan, 0),
        ((0, 0, math.nan, 9), 0.9, 0),
        ((0, 0, 9, 9), 0.9, 0),  # past num_detections
    ]
    expected = [
        [0, 10, 20, 20, 30, 0.9, 0],
        [1, 1.5, 2.25, 94.5, 61.75, 0.5, 0],
        [0, 0, 0, 9, 9, 0.49, 0],
        [0, 0, 0, 5, 64, 0.8, 0],
    ]
    objects = parse(session, rows, count=10, thresholds=(0.25, 0.5))
    np.testing.assert_allclose(objects, expected, atol=TOLERANCE)


@pytest.mark.parametrize("count", [0, -1, 1, 4, 1000])
def test_num_detections_is_limited_to_the_number_of_rows(session: Path, count: int) -> None:
    objects = parse(session, [((0, 0, 9, 9), 0.9, 0)] * 4, count=count, thresholds=(0.5,))
    assert len(objects) == min(max(count, 0), 4)


@pytest.mark.parametrize("name", ["num_detections", "boxes", "scores", "labels"])
def test_a_missing_output_is_an_error(session: Path, name: str) -> None:
    run = call(session, "parse", name, numbers=[96, 64, 1, 1, 1, 0.5, 0, 0, 9, 9, 0.9, 0])
    assert run.returncode == 3
    assert "expected the outputs num_detections, boxes, scores and labels" in run.stderr
