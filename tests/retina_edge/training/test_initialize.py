"""What a new run takes from the checkpoint that it starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from engines.core.errors import ContractError
from retina_edge import api
from retina_edge.model.checkpoint import Checkpoint, load_checkpoint
from retina_edge.model.retinanet import RetinaNet
from retina_edge.training.initialize import check_statistics
from tests.models import TINY, contract_of

FROZEN = dataclasses.replace(TINY, head_norm="frozen")


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"head_norm": "batch"}, None),
        ({"head_norm": "frozen"}, None),
        ({"head_norm": "batch", "num_classes": 3}, None),
        ({"head_norm": "group"}, "head_norm group"),
        ({"head_norm": "batch", "fpn_channels": 64}, "other levels or channels"),
    ],
)
def test_frozen_heads_need_the_statistics_of_a_checkpoint(changes: dict[str, object], got: str | None) -> None:
    other = RetinaNet(dataclasses.replace(TINY, **changes))  # type: ignore[arg-type]
    source = Checkpoint(contract_of(other), other.config, other.state_dict())
    check_statistics(RetinaNet(TINY), source)
    if got is None:
        check_statistics(RetinaNet(FROZEN), source)
        return
    with pytest.raises(ContractError, match=rf"frozen: expected a checkpoint for --init with .* got .*{got}"):
        check_statistics(RetinaNet(FROZEN), source)


def test_frozen_heads_with_random_weights_are_refused_before_the_first_step(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path
) -> None:
    data = api.TrainingData(tiny_coco, treecrowns / "images", tiny_coco)
    model = {"backbone": "resnet18", "backbone_weights": None, "fpn_channels": 32, "head_norm": "frozen"}
    with pytest.raises(ContractError, match="whose statistics stay as they are, got none; choose --head-norm batch"):
        api.train(data, tmp_path / "m.pt", {"epochs": 1}, model=model, device="cpu")
    assert not list(tmp_path.iterdir())


def test_anchors_that_options_cannot_express_are_kept(tiny_coco: Path, treecrowns: Path, tmp_path: Path) -> None:
    """As those of a converted model: fine-tuned, resumed, and of a teacher; given ones replace them."""
    sizes = ((32.0, 48.0, 64.0), (64.0, 96.0, 128.0), (128.0, 192.0, 256.0))
    other = RetinaNet(dataclasses.replace(TINY, anchor_sizes=sizes))
    source = tmp_path / "other.pt"
    Checkpoint(contract_of(other), other.config, other.state_dict()).save(source)
    data = api.TrainingData(tiny_coco, treecrowns / "images", tiny_coco)
    options = {"epochs": 1, "epoch_samples": 2, "batch": 2, "workers": 0, "warmup_steps": 0}
    said: list[str] = []

    def trained(name: str, **others: Any) -> tuple[tuple[float, ...], ...]:
        path = tmp_path / f"{name}.pt"
        api.train(data, path, options, device="cpu", on_message=said.append, **others)
        checkpoint = load_checkpoint(path)
        assert tuple(level.anchor_sizes for level in checkpoint.contract.levels) == checkpoint.config.anchor_sizes
        return checkpoint.config.anchor_sizes

    assert trained("tuned", init=source) == sizes
    assert trained("tuned", resume=True) == sizes
    assert not [line for line in said if "do not fit" in line]
    small = {"backbone": "resnet18", "backbone_weights": None, "fpn_channels": 32, "head_depth": 1}
    assert trained("taught", teacher=source, model=small) == sizes
    assert trained("given", init=source, model={"anchor_sizes": (32.0, 64.0, 128.0)}) == TINY.anchor_sizes


def test_a_recipe_keeps_the_architecture_of_a_checkpoint(tiny_coco: Path, treecrowns: Path, tmp_path: Path) -> None:
    """The recipe v2 alone is an R50 of 800x800 pixels, into which no weight of a small network fits."""
    small = RetinaNet(dataclasses.replace(TINY, head_norm="batch"))
    source = Checkpoint(contract_of(small), small.config, small.state_dict())
    source.save(tmp_path / "small.pt")
    data = api.TrainingData(tiny_coco, treecrowns / "images", tiny_coco)
    options = {"epochs": 1, "epoch_samples": 2, "batch": 2, "workers": 0, "warmup_steps": 0}
    said: list[str] = []
    api.train(
        *(data, tmp_path / "m.pt", options),
        init=tmp_path / "small.pt",
        recipe="v2",
        device="cpu",
        on_message=said.append,
    )
    trained = load_checkpoint(tmp_path / "m.pt")
    assert trained.config == dataclasses.replace(small.config, box_loss="giou", num_classes=trained.config.num_classes)
    assert trained.contract.input_size == source.contract.input_size
    assert not [line for line in said if "do not fit" in line]
    assert trained.recipe is not None
    assert trained.recipe["options"]["weight_decay"] == 0.05
