"""Checkpoint files: round trip, atomic writing, and refusal of damaged, foreign or dangerous files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from engines.core.errors import ModelFileError
from retina_edge import Detector
from retina_edge.model.checkpoint import Checkpoint, load_checkpoint
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively

# Pixels; for another batch size, torch sums a convolution in another order.
BATCH_ATOL = 1e-3


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    torch.manual_seed(0)
    return lively(RetinaNet(TINY))


@pytest.fixture
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
    with pytest.raises(ModelFileError, match="torch cannot read it"):
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


@pytest.mark.parametrize(
    ("key", "value"),
    [("contract", "{}"), ("config", "{}"), ("weights", None), ("weights", 3), ("contract", None)],
)
def test_damaged_content_is_refused(tmp_path: Path, checkpoint: Checkpoint, key: str, value: object) -> None:
    path = tmp_path / "model.pt"
    checkpoint.save(path)
    content = torch.load(path, weights_only=True)
    content[key] = value
    torch.save(content, path)
    with pytest.raises(ModelFileError, match=r"model\.pt: damaged checkpoint"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    weights.pop("head.regression_head.bbox_reg.bias")
    path = tmp_path / "model.pt"
    Checkpoint(checkpoint.contract, checkpoint.config, weights).save(path)
    with pytest.raises(
        ModelFileError, match=r"model\.pt: damaged .*1 weights do not fit .*bbox_reg.bias: expected \(36,\), got none"
    ):
        Detector.load(path)
