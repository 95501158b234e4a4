"""Checkpoint files: round trip, atomic writing, and refusal of damaged, foreign or dangerous files."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings

from engines.core.errors import ModelFileError
from retina_edge import Detector
from retina_edge.model.checkpoint import FORMAT, Checkpoint, load_checkpoint
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from tests.hostile import accepted, damaged
from tests.models import TINY, contract_of, lively

# Pixels; for another batch size, torch sums a convolution in another order. Boxes are compared row by row: a change in
# the last bits exchanges two of them only if their scores are as close, and the weights are seeded.
BATCH_ATOL = 1e-3


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    torch.manual_seed(0)
    return lively(RetinaNet(TINY))


@pytest.fixture(scope="module")
def checkpoint(model: RetinaNet) -> Checkpoint:
    return Checkpoint(contract_of(model), TINY, model.state_dict())


def test_round_trip_gives_the_same_detections(
    tmp_path: Path, model: RetinaNet, checkpoint: Checkpoint, frames: list[npt.NDArray[np.uint8]]
) -> None:
    path = tmp_path / "new folder" / "model.pt"
    checkpoint.save(path)
    loaded = load_checkpoint(path)
    assert loaded.contract == checkpoint.contract
    assert loaded.config == TINY
    assert loaded.training is None
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.weights[name], value)
    with Detector.load(path) as detector:
        single = detector(frames[0], score=detector.score_threshold)
        assert len(single) > 5
        batch = detector(frames, score=detector.score_threshold)
        np.testing.assert_allclose(batch[0].boxes, single.boxes, atol=BATCH_ATOL)


def test_half_weights_halve_the_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(tmp_path / "full.pt")
    checkpoint.save(tmp_path / "half.pt", half=True)
    full, half = ((tmp_path / name).stat().st_size for name in ("full.pt", "half.pt"))
    assert half < 0.52 * full + 50_000
    for name, value in load_checkpoint(tmp_path / "half.pt").weights.items():
        expected = checkpoint.weights[name]
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert torch.equal(value, expected.half().float() if value.ndim > 1 else expected)


def test_half_weights_keep_the_statistics_of_each_level(tmp_path: Path) -> None:
    """Variances of 1e5 and of 1e-9, which are infinity and 0 in float16."""
    model = RetinaNet(dataclasses.replace(TINY, head_norm="batch"))
    statistics = model.head.classification_head.conv[0][1].running_var
    statistics[0], statistics[1] = 1e5, 1e-9
    Checkpoint(contract_of(model), model.config, model.state_dict()).save(tmp_path / "half.pt", half=True)
    loaded = load_checkpoint(tmp_path / "half.pt").build_model()
    assert torch.equal(loaded.head.classification_head.conv[0][1].running_var, statistics)


def test_writing_is_atomic(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    checkpoint.save(path)
    before = path.read_bytes()

    def fail(_: Any, file: Any) -> None:
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt"]


class Malicious:
    """An object that, when unpickled, creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    torch.save({"format": Malicious(target)}, tmp_path / "evil.pt")
    with pytest.raises(ModelFileError, match=r"got a pickled \S+, which cannot be read without running code"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not target.exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(ModelFileError, match="found no file"):
        load_checkpoint(path)
    checkpoint.save(path)
    complete = path.read_bytes()
    for content in (b"", b"not a checkpoint", complete[: len(complete) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"model\.pt: expected a checkpoint of retina_edge"):
            load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ModelFileError, match="retina-edge convert"):
        load_checkpoint(path)


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else None


RECIPE: dict[str, Any] = {"model": {}, "augment": {}, "options": {}, "choices": []}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("contract", "{}"),
        ("contract", None),
        ("contract", torch.zeros(1)),
        ("config", "{}"),
        ("config", 3),
        ("weights", None),
        ("weights", 3),
        ("weights", {"a": 3}),
        ("weights", {3: torch.zeros(1)}),
        ("training", 3),
        ("training", {"step": "1"}),
        ("training", {}),
        ("recipe", []),
        ("recipe", {}),
        ("recipe", {**RECIPE, "choices": [{"option": "--lr"}]}),
        ("recipe", {**RECIPE, "options": {"lr": nested(50)}}),
        ("recipe", {**RECIPE, "options": {"lr": torch.zeros(1)}}),
    ],
)
def test_damaged_content_is_refused(tmp_path: Path, checkpoint: Checkpoint, key: str, value: object) -> None:
    path = tmp_path / "model.pt"
    content = {
        "format": FORMAT,
        "contract": checkpoint.contract.to_json(),
        "config": checkpoint.config.to_json(),
        "weights": checkpoint.weights,
        key: value,
    }
    torch.save(content, path)
    with pytest.raises(ModelFileError, match=rf"model\.pt: damaged checkpoint: .*{key}"):
        load_checkpoint(path)


@pytest.mark.parametrize("changes", [{"class_names": ("a", "b"), "category_ids": (1, 2)}, {"input_size": (64, 64)}])
def test_a_contract_of_another_model_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, changes: dict[str, Any]
) -> None:
    """With other sizes of raw heads, the decoder would fail in the middle of a run."""
    path = tmp_path / "model.pt"
    contract = dataclasses.replace(checkpoint.contract, **changes)
    dataclasses.replace(checkpoint, contract=contract).save(path)
    with pytest.raises(ModelFileError, match="model and contract differ in classes, anchors or pyramid"):
        load_checkpoint(path)


NAME = "backbone.body.layer1.0.bn1.running_var"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((64,), torch.nan), f"'{NAME}': expected finite numbers, got NaN or infinity"),
        (torch.full((64,), torch.inf, dtype=torch.float16), f"'{NAME}': expected finite numbers"),
        (torch.full((64,), -1.0), f"'{NAME}': expected variances of 0 or more"),
        (torch.ones(64, dtype=torch.complex64), f"'{NAME}': expected real numbers, got torch.complex64"),
        (torch.ones(64, dtype=torch.int32), rf"'{NAME}': expected float32 \[64\], got int32 \[64\]"),
        (torch.ones(65), rf"'{NAME}': expected float32 \[64\], got float32 \[65\]"),
    ],
)
def test_weights_that_compute_nothing_are_refused(
    tmp_path: Path, checkpoint: Checkpoint, value: torch.Tensor, message: str
) -> None:
    path = tmp_path / "model.pt"
    dataclasses.replace(checkpoint, weights={**checkpoint.weights, NAME: value}).save(path)
    with pytest.raises(ModelFileError, match=rf"model\.pt: damaged checkpoint: .*{message}"):
        load_checkpoint(path)


@settings(max_examples=100, deadline=None)
@given(damaged(json.loads(TINY.to_json())))
def test_a_damaged_configuration_is_refused_or_usable(text: str) -> None:
    if config := accepted(lambda: ModelConfig.from_json(text)):
        assert ModelConfig.from_json(config.to_json()) == config
        with torch.device("meta"):
            RetinaNet(config)


# Files of a few bytes that ask for gigabytes. Each is loaded in a process of its own, which measures its memory.
MEGABYTE = 1 << 20
CLAIM = 1 << 31
BOMBS = """
import json, resource, sys
from pathlib import Path
from engines.core.errors import ModelFileError
from retina_edge.model.checkpoint import load_checkpoint

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

results = {}
load_checkpoint(sys.argv[1])
for path in map(Path, sys.argv[2:]):
    before = peak()
    try:
        load_checkpoint(path)
        message = ""
    except ModelFileError as error:
        message = str(error)
    results[path.name] = (peak() - before, message)
print(json.dumps(results))
"""


class Call:
    """An object that is pickled as a call of a function."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes only on Linux")
def test_no_file_takes_more_memory_than_it_has_bytes(tmp_path: Path, checkpoint: Checkpoint) -> None:
    valid = tmp_path / "valid.pt"
    checkpoint.save(valid)
    content = torch.load(valid, weights_only=True)

    def weights(value: object) -> dict[str, Any]:
        return {**content, "weights": {**content["weights"], NAME: value}}

    stretched = torch.zeros(1, dtype=torch.float16).expand(CLAIM)
    torch.save(weights(stretched), tmp_path / "stretched.pt")
    torch.save(weights(torch.zeros(1).expand(CLAIM, 50)), tmp_path / "huge.pt")
    torch.save(weights(stretched), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(weights(Call(bytearray, CLAIM)), tmp_path / "bytearray.pt")
    torch.save(weights(Call(torch.Tensor, CLAIM)), tmp_path / "tensor.pt")
    with zipfile.ZipFile(valid) as source, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, bytes(100 * MEGABYTE) if name.endswith("data/0") else source.read(name))
    shutil.copy(valid, tmp_path / "shared.pt")
    with zipfile.ZipFile(tmp_path / "shared.pt", "a") as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        for number in range(100):
            record = copy.copy(largest)
            record.filename = f"{largest.filename}{number}"
            archive.filelist.append(record)
        archive.writestr(f"{largest.filename.partition('/')[0]}/more", b"")  # so that the directory is written
    bombs = sorted(path for path in tmp_path.glob("*.pt") if path != valid)
    command = [sys.executable, "-c", BOMBS, str(valid), *map(str, bombs)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    results = json.loads(run.stdout)
    assert set(results) == {path.name for path in bombs}
    expected = {
        "stretched.pt": f"expected weights of at most the .* most of them in '{NAME}' of shape \\({CLAIM},\\)",
        "huge.pt": f"expected weights of at most the .* most of them in '{NAME}'",
        "legacy.pt": f"expected weights of at most the .* most of them in '{NAME}'",
        "bytearray.pt": "got a pickled '__builtin__.bytearray', which cannot be read without running code",
        "tensor.pt": r"got a pickled 'torch\.\w*\.?Tensor",
        "packed.pt": "torch cannot read it: ValueError records are compressed",
        "shared.pt": "torch cannot read it: ValueError records do not fit into the",
    }
    for name, (kilobytes, message) in results.items():
        assert re.search(expected[name], message), (name, message)
        assert kilobytes * 1024 < 30 * MEGABYTE, (name, kilobytes)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    weights.pop("head.regression_head.bbox_reg.bias")
    path = tmp_path / "model.pt"
    Checkpoint(checkpoint.contract, checkpoint.config, weights).save(path)
    with pytest.raises(
        ModelFileError,
        match=r"model\.pt: damaged .*1 weights do not fit .*bbox_reg.bias': expected float32 \[36\], got none",
    ):
        Detector.load(path)
