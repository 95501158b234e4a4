"""The range test finds the rate of a function whose best rate is known, and leaves a run as it was."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from retina_edge import api
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.train import main
from retina_edge.training.rate_search import DIVERGED, STEPS, range_test, rates
from tests.interruption import interrupt_at
from tests.retina_edge.training.test_trainer import assert_equal
from tests.training_command import ON_STEP, SMALL, train_in_two_processes, training_data

pytestmark = pytest.mark.start_first


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("off_by", [0.1, 1.0, 10.0])
def test_the_rate_of_a_quadratic_function_is_near_the_best_one(curvature: float, off_by: float) -> None:
    """Gradient descent on c / 2 · x² multiplies x by 1 - rate · c: best is 1 / c, and from 2 / c on it diverges.

    The usual rate, around which the test searches, is off by a factor, and the gradient has noise.
    """
    noise = np.random.default_rng(0)
    x = 10.0

    def step(rate: float) -> float:
        nonlocal x
        loss = 0.5 * curvature * x**2
        x -= rate * (curvature * x) * (1 + 0.2 * noise.standard_normal())
        return loss

    test = range_test(step, rates(off_by / curvature, STEPS))
    assert test.rate is not None
    assert 0.3 <= test.rate * curvature <= 1.5
    assert "a tenth of" in test.reason


def test_a_loss_that_does_not_fall_clearly_keeps_the_usual_rate() -> None:
    noise = np.random.default_rng(0)
    test = range_test(lambda _rate: 1 + 0.01 * noise.standard_normal(), rates(0.001, STEPS))
    assert len(test.rates) == STEPS
    assert test.rate is None
    assert test.reason.startswith("usual; the loss of a range test did not fall clearly in 100 steps")
    assert range_test(lambda _rate: math.nan, rates(0.001, STEPS)).rate is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, 100.0])
def test_a_loss_that_diverges_ends_the_test(bad: float) -> None:
    losses = iter([1.0] * 10 + [0.5] * 30 + [bad] + [0.0] * 59)
    test = range_test(lambda _rate: next(losses), rates(1.0, STEPS))
    assert len(test.rates) == 40
    assert max(test.losses) <= DIVERGED * min(test.losses)
    # With a share of 0.1, the mean nears 0.5 from step to step, so the last one is least: 10^(-3 + 39 / 99 · 5).
    assert test.best_rate == pytest.approx(10 ** (-3 + 39 / 99 * 5))
    # 1 · 0.9^30 of the weight is still on the ten ones, of 1 - 0.9^40 in all.
    ones = 0.9**30 - 0.9**40
    assert test.losses[-1] == pytest.approx((ones + 0.5 * (1 - 0.9**30)) / (1 - 0.9**40))


def command(tiny_coco: Path, treecrowns: Path, output: Path, *more: str) -> list[str]:
    return [*training_data(tiny_coco, treecrowns, output), *SMALL, "--epochs", "2", *more]


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_run_with_a_found_rate_equals_one_with_that_rate(
    tiny_coco: Path,
    treecrowns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    optimizer: str,
) -> None:
    """The test leaves weights, statistics and optimizer as they were; also a resumed run has the rate."""
    found = command(tiny_coco, treecrowns, tmp_path / "found.pt", "--find-lr", "--optimizer", optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(ON_STEP, interrupt_at(3))
        assert main(found) == 130
    printed = capsys.readouterr().err
    assert main([*found, "--resume"]) == 0
    assert "range test of up to" not in capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "found.last.pt")
    assert checkpoint.recipe is not None
    rate = checkpoint.recipe["options"]["learning_rate"]
    (choice,) = [choice for choice in checkpoint.recipe["choices"] if choice["option"] == "--lr"]
    assert choice["value"] == f"{rate:g}"
    assert f"  --lr {rate:g}: {choice['reason']}" in printed
    assert "range test of" in choice["reason"]

    given = command(tiny_coco, treecrowns, tmp_path / "given.pt", "--lr", str(rate), "--optimizer", optimizer)
    assert main(given) == 0
    expected = load_checkpoint(tmp_path / "given.last.pt")
    assert_equal(checkpoint.training, expected.training)
    assert_equal(checkpoint.weights, expected.weights)


def test_a_given_rate_and_a_search_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--lr", "0.1"], "--find-lr: not allowed with --lr, which is the rate; leave one out"),
        (["--qat", "a.pt"], "--find-lr: not allowed with --qat, which needs a small rate; leave one out"),
    ):
        with pytest.raises(SystemExit):
            main([str(tmp_path), "-o", str(tmp_path / "m.pt"), "--find-lr", *options])
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="find_lr: expected no learning_rate with it"):
        api.train(tmp_path, tmp_path / "m.pt", {"learning_rate": 0.1}, find_lr=True)
    with pytest.raises(ValueError, match="find_lr: not allowed with qat"):
        api.train(tmp_path, tmp_path / "m.pt", qat=tmp_path / "a.pt", find_lr=True)


@pytest.mark.slow
def test_two_processes_search_together(tiny_coco: Path, treecrowns: Path, tmp_path: Path) -> None:
    run = command(
        tiny_coco,
        treecrowns,
        tmp_path / "two.pt",
        "--find-lr",
        "--recipe",
        "paper",
        "--backbone-norm",
        "frozen",
        "--batch",
        "1",
    )
    assert train_in_two_processes(run).count("searching the learning rate") == 1
    recipe = load_checkpoint(tmp_path / "two.pt").recipe
    assert recipe is not None
    (reason,) = (choice["reason"] for choice in recipe["choices"] if choice["option"] == "--lr")
    assert reason != "recipe paper"


def test_a_run_whose_time_is_too_short_for_a_test_keeps_the_usual_rate(
    tiny_coco: Path,
    treecrowns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("retina_edge.training.rate_search.LARGEST_SHARE", 1e-6)
    monkeypatch.setattr("retina_edge.training.speed.SECONDS", 0.2)
    run = command(tiny_coco, treecrowns, tmp_path / "m.pt", "--find-lr", "--minutes", "0.05")
    epochs = run.index("--epochs")
    assert main([*run[:epochs], *run[epochs + 2 :]]) == 0
    printed = capsys.readouterr().err
    assert "usual; the time of the run is too short for a range test" in printed
    assert "searching the learning rate" not in printed
