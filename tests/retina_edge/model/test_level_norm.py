"""Batch normalization by level equals torch's BatchNorm2d on each level, alone and over several processes."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from retina_edge.model.level_norm import LevelBatchNorm
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY

LEVELS = [(8, 12), (4, 6), (2, 3)]


def features(seed: int, images: int = 4, channels: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, channels, *size, generator=generator) * 3 + 1 for size in LEVELS]


def run(modules: list[nn.Module], levels: list[Tensor], *, by_level: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs and the gradients of the inputs."""
    inputs = [level.clone().requires_grad_() for level in levels]
    outputs = [
        module(x, index) if by_level else module(x)
        for index, (module, x) in enumerate(zip(modules, inputs, strict=True))
    ]
    torch.stack([(output**3).sum() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    return [output.detach() for output in outputs], [x.grad for x in inputs if x.grad is not None]


def test_each_level_has_its_own_statistics_and_all_share_scale_and_shift() -> None:
    norm = LevelBatchNorm(5, levels=len(LEVELS))
    others = [nn.BatchNorm2d(5) for _ in LEVELS]
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
        for other in others:
            other.weight.copy_(norm.weight)
            other.bias.copy_(norm.bias)
    for seed in range(3):
        for mine, expected in zip(
            run([norm] * 3, features(seed), by_level=True), run([*others], features(seed), by_level=False), strict=True
        ):
            torch.testing.assert_close(mine, expected, rtol=0, atol=0)
    assert norm.weight.grad is not None
    torch.testing.assert_close(norm.weight.grad, sum(other.weight.grad for other in others))
    norm.eval()
    for level, other in enumerate(others):
        assert torch.equal(norm.running_mean[level], other.running_mean)  # type: ignore[arg-type]
        assert torch.equal(norm.running_var[level], other.running_var)  # type: ignore[arg-type]
        assert torch.equal(norm(features(9)[level], level), other.eval()(features(9)[level]))


def test_fixed_statistics_stay_and_are_used_in_training() -> None:
    norm = LevelBatchNorm(5, levels=3, fixed=True)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    before = norm.running_mean.clone()
    trained = [norm(x, level) for level, x in enumerate(features(0))]
    assert torch.equal(norm.running_mean, before)
    norm.eval()
    for level, x in enumerate(features(0)):
        assert torch.equal(norm(x, level), trained[level])


def test_a_single_position_uses_the_running_statistics() -> None:
    norm = LevelBatchNorm(2, levels=1)
    norm.running_mean.fill_(1.0)
    x = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(norm(x, 0), (x - 1) / (1 + norm.eps) ** 0.5)
    assert norm.running_mean.eq(1).all()


def test_heads_with_frozen_statistics_take_the_weights_of_heads_with_batch_statistics() -> None:
    batch = RetinaNet(dataclasses.replace(TINY, head_norm="batch"))
    frozen = RetinaNet(dataclasses.replace(TINY, head_norm="frozen"))
    frozen.load_state_dict(batch.state_dict())
    shapes = {
        name: tuple(value.shape) for name, value in batch.state_dict().items() if "head" in name and "running" in name
    }
    assert shapes == {
        f"head.{branch}_head.conv.0.1.running_{what}": (3, 32)
        for branch in ("classification", "regression")
        for what in ("mean", "var")
    }
    images = torch.randn(2, 3, 64, 96)
    batch.train()(images)
    assert batch.head.classification_head.conv[0][1].running_mean.any(1).all()  # each level is used
    assert not batch.head.classification_head.conv[0][1].fixed
    assert frozen.head.classification_head.conv[0][1].fixed


def _process(rank: int, world: int, folder: str, state: dict[str, Any]) -> None:
    warnings.simplefilter("error", FutureWarning)  # those of deprecated functions would reach the user
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    norm = LevelBatchNorm(5, levels=3)
    norm.load_state_dict(state)
    mine = [x.chunk(world)[rank] for x in features(0)]
    outputs, gradients = run([norm] * 3, mine, by_level=True)
    torch.save((outputs, gradients, norm.state_dict()), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_statistics_of_two_processes_are_those_of_all_images(tmp_path: Path) -> None:
    norm = LevelBatchNorm(5, levels=3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    spawn(_process, (2, str(tmp_path), norm.state_dict()), nprocs=2)  # type: ignore[no-untyped-call]
    outputs, gradients = run([norm] * 3, features(0), by_level=True)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for level in range(3):
        torch.testing.assert_close(torch.cat([part[0][level] for part in parts]), outputs[level])
        torch.testing.assert_close(torch.cat([part[1][level] for part in parts]), gradients[level])
    for name, value in norm.state_dict().items():
        assert torch.equal(parts[0][2][name], parts[1][2][name]), name
        torch.testing.assert_close(parts[0][2][name], value)
