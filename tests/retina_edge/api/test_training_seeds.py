"""Several seeds: each run is that of its seed, finished ones are not repeated, and the table has the right numbers."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engines.core.errors import ContractError, DataError, SinkError, TrainingError
from retina_edge import api
from retina_edge.api.training_seeds import SeedsResult, train_seeds
from retina_edge.assets import CHECKPOINT
from retina_edge.cli.training_end import print_seeds
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.system.console import Console
from retina_edge.train import main
from retina_edge.training.run_files import claim_run_files
from retina_edge.training.train_options import TrainOptions
from tests.interruption import interrupt_at
from tests.retina_edge.training.test_trainer import assert_equal
from tests.training_command import ON_STEP, SMALL, train_in_two_processes, training_data

pytestmark = pytest.mark.start_first


def results(*aps: float) -> SeedsResult:
    runs = {
        seed: api.TrainingResult(Path(f"m.seed{seed}.pt"), ap, {"AP": ap, "AP50": ap / 2, "AP75": 0.0})
        for seed, ap in enumerate(aps, 5)
    }
    return SeedsResult(Path("m.pt"), runs)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_mean_and_spread_are_those_of_numpy(aps: list[float]) -> None:
    result = results(*aps)
    assert result.mean("AP") == pytest.approx(np.mean(aps), abs=1e-12)
    assert result.spread("AP") == pytest.approx(np.std(aps, ddof=1), abs=1e-9)
    assert result.mean("AP50") == pytest.approx(np.mean(aps) / 2, abs=1e-12)
    assert result.best == 5 + int(np.argmax(aps))  # of equal ones the first


def test_the_table_has_a_row_for_each_seed_then_mean_and_spread(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 0.2, 0.5 and 0.35: mean 0.35; spread √((0.15² + 0.15² + 0) / 2) = 0.15."""
    print_seeds(Console(width=100), results(0.2, 0.5, 0.35))
    printed = capsys.readouterr().out
    rows = [re.findall(r"[\w.]+", line) for line in printed.splitlines()]
    for row in (
        ["5", "m.seed5.pt", "0.2000", "0.1000", "0.0000"],
        ["6", "m.seed6.pt", "0.5000", "0.2500", "0.0000"],
        ["7", "m.seed7.pt", "0.3500", "0.1750", "0.0000"],
        ["mean", "0.3500", "0.1750", "0.0000"],
        ["spread", "0.1500", "0.0750", "0.0000"],
    ):
        assert row in rows
    assert "m.pt is a copy of m.seed6.pt, the best of 3 on the validation images" in printed
    # Processes other than the main one have no metrics.
    other = SeedsResult(Path("m.pt"), {seed: api.TrainingResult(Path("a.pt"), 0.1) for seed in range(2)})
    assert math.isnan(other.mean("AP"))
    assert math.isnan(other.spread("AP"))


class Runs:
    """Stands in for ``train``: writes a checkpoint whose recipe has the options, and remembers how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *aps: float) -> None:
        self.aps, self.calls = list(aps), []  # type: tuple[list[float], list[tuple[str, dict[str, Any]]]]
        self.changes: dict[int, dict[str, Any]] = {}
        monkeypatch.setattr("retina_edge.api.training_seeds.train", self)

    def __call__(self, _data: object, output: Path, options: dict[str, Any], **others: Any) -> api.TrainingResult:
        ap = self.aps[len(self.calls)]
        others["on_start"]()
        self.calls.append((output.name, {**options, **others}))
        complete = {**vars(TrainOptions()), **options, **self.changes.get(options["seed"], {})}
        recipe = {"model": {}, "augment": {}, "options": complete, "choices": []}
        saved = dataclasses.replace(load_checkpoint(CHECKPOINT), recipe=recipe)
        saved.save(output)
        saved.save(output.with_suffix(".last.pt"))
        return api.TrainingResult(output, ap, {"AP": ap})


def test_the_best_checkpoint_is_copied_and_an_earlier_one_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch, 0.1, 0.3, 0.2)
    output = tmp_path / "m.pt"
    output.write_text("earlier")
    said: list[str] = []
    result = train_seeds(tmp_path, output, {"seed": 4, "epochs": 1}, seeds=3, init="a.pt", on_message=said.append)
    assert [name for name, _ in runs.calls] == ["m.seed4.pt", "m.seed5.pt", "m.seed6.pt"]
    for seed, (_, arguments) in enumerate(runs.calls, 4):
        assert (arguments["seed"], arguments["epochs"], arguments["init"]) == (seed, 1, "a.pt")
        assert arguments["resume"] is False
    assert result.best == 5
    assert output.read_bytes() == (tmp_path / "m.seed5.pt").read_bytes()
    assert (tmp_path / "m.previous.pt").read_text() == "earlier"
    assert not (tmp_path / "m.csv").exists()
    assert not [line for line in said if "differ" in line]
    assert "seed 5, run 2 of 3: m.seed5.pt" in said


def test_resuming_goes_on_with_begun_runs_and_starts_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match=r"m\.seed0\.last\.pt: expected a checkpoint to resume, found no file"):
        train_seeds(tmp_path, tmp_path / "m.pt", seeds=3, resume=True)
    runs = Runs(monkeypatch, 0.1, 0.3)
    train_seeds(tmp_path, tmp_path / "m.pt", seeds=2)
    runs = Runs(monkeypatch, 0.1, 0.3, 0.2)
    said: list[str] = []
    runs.changes = {2: {"batch": 3, "workers": 7}}
    train_seeds(tmp_path, tmp_path / "m.pt", seeds=3, init="a.pt", resume=True, on_message=said.append)
    assert [(call["resume"], call["init"]) for _, call in runs.calls] == [(True, None), (True, None), (False, "a.pt")]
    (warning,) = [line for line in said if line.startswith("warning")]
    assert "the runs differ in batch, so the spread" in warning


def test_resuming_takes_no_run_of_an_earlier_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, said = tmp_path / "m.pt", list[str]()
    Runs(monkeypatch, 0.1, 0.2, 0.3)
    train_seeds(tmp_path, output, seeds=3)
    earlier = (tmp_path / "m.seed1.pt").read_bytes()
    (tmp_path / "m.seed2.previous.pt").write_text("good")
    (tmp_path / "m.seed2.pt").unlink()  # a state without a checkpoint, which is not kept beside a kept checkpoint

    def interrupted(_data: object, _output: Path, _options: object, **others: Any) -> None:
        others["on_start"]()
        raise KeyboardInterrupt

    monkeypatch.setattr("retina_edge.api.training_seeds.train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(tmp_path, output, {"batch": 3}, seeds=2, on_message=said.append)
    left = [path.name for path in tmp_path.glob("m.seed*") if "previous" not in path.name]
    assert {name.partition(".last")[0].removesuffix(".pt") for name in left} == {"m.seed0"}  # a real run moves its own
    assert (tmp_path / "m.seed1.previous.pt").read_bytes() == earlier
    assert (tmp_path / "m.seed2.previous.pt").read_text() == "good"
    assert [line for line in said if "m.seed2.last.pt is removed" in line]
    runs = Runs(monkeypatch, 0.1, 0.2, 0.3)
    train_seeds(tmp_path, output, {"batch": 3}, seeds=3, resume=True)
    assert [call["resume"] for _, call in runs.calls] == [True, False, False]


def test_a_command_that_is_refused_changes_no_file(tmp_path: Path) -> None:
    for name in ("m.pt", "m.previous.pt", "m.seed0.pt", "m.seed0.last.pt", "m.seed1.last.pt", "m.seed1.previous.pt"):
        (tmp_path / name).write_text(name)
    with pytest.raises(DataError):
        train_seeds(tmp_path / "none.json", tmp_path / "m.pt", seeds=2)
    with pytest.raises(ContractError, match="expected either minutes or epochs"):
        train_seeds(tmp_path, tmp_path / "m.pt", {"minutes": 5, "epochs": 3}, seeds=2)
    files = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert files == {name: name for name in files}
    assert len(files) == 6


@pytest.mark.parametrize("seeds", [1, 0, 1001])
def test_the_number_of_seeds_is_checked(tmp_path: Path, seeds: int) -> None:
    with pytest.raises(ValueError, match=r"seeds: expected 2 to 1000"):
        train_seeds(tmp_path, tmp_path / "m.pt", seeds=seeds)


def test_a_checkpoint_that_the_copy_would_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("good")
    with pytest.raises(SinkError, match=r"m\.pt would overwrite the checkpoint"):
        train_seeds(tmp_path, tmp_path / "m.pt", seeds=2, init=tmp_path / "m.pt")


@pytest.mark.parametrize(("kind", "name"), [("teacher", "m.pt"), ("teacher", "m.seed1.pt"), ("init", "m.seed1.pt")])
def test_inputs_that_any_run_would_replace_are_refused_before_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    runs = Runs(monkeypatch, 0.1, 0.2)
    (tmp_path / name).write_text("good")
    given: dict[str, Any] = {kind: tmp_path / name}
    with pytest.raises(SinkError, match=rf"{re.escape(name)} would overwrite the (teacher|checkpoint)"):
        train_seeds(tmp_path, tmp_path / "m.pt", seeds=2, **given)
    assert (tmp_path / name).read_text() == "good"
    assert not runs.calls


def test_a_seed_without_room_for_the_others_is_refused_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch, 0.1, 0.2)
    with pytest.raises(ContractError, match=f"seed: expected 0 to {2**63 - 2}, got {2**63 - 1}"):
        train_seeds(tmp_path, tmp_path / "m.pt", {"seed": 2**63 - 1}, seeds=2)
    assert not runs.calls


def test_a_second_start_leaves_the_lock_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Runs(monkeypatch, 0.1, 0.2)
    with claim_run_files(tmp_path / "m.pt", resume=False):
        for _ in range(2):
            with pytest.raises(SinkError, match="another training run writes this file"):
                train_seeds(tmp_path, tmp_path / "m.pt", seeds=2)


def command(tiny_coco: Path, treecrowns: Path, output: Path, *more: str) -> list[str]:
    return [*training_data(tiny_coco, treecrowns, output), *SMALL, "--epochs", "1", *more]


def test_each_run_is_that_of_its_seed_also_after_an_interruption(
    tiny_coco: Path,
    treecrowns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first run has ended, the second one is interrupted, and the third one has not begun."""
    three = command(tiny_coco, treecrowns, tmp_path / "m.pt", "--seeds", "3")
    with monkeypatch.context() as patch:
        patch.setattr(ON_STEP, interrupt_at(3))
        assert main(three) == 130
    printed = capsys.readouterr().err
    assert f"the state is in {tmp_path / 'm.seed1.last.pt'}; go on with: " in printed
    assert not (tmp_path / "m.pt").exists()
    finished = (tmp_path / "m.seed0.pt").stat().st_mtime_ns
    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(ON_STEP, lambda _progress, report: steps.append(report.step))
        assert main(shlex.split(printed.partition("go on with: ")[2].splitlines()[0])[2:]) == 0
    assert steps == [2, 1, 2]  # one of the second run, and all of the third
    assert (tmp_path / "m.seed0.pt").stat().st_mtime_ns == finished
    printed = capsys.readouterr().err
    assert "spread" in printed
    assert f"wrote {tmp_path / 'm.pt'}, {tmp_path / 'm.seed0.pt'}, " in printed
    single = command(tiny_coco, treecrowns, tmp_path / "single.pt", "--seed", "1")
    assert main(single) == 0
    expected, actual = (load_checkpoint(tmp_path / name) for name in ("single.last.pt", "m.seed1.last.pt"))
    assert_equal(actual.training, expected.training)
    first, second = (load_checkpoint(tmp_path / f"m.seed{seed}.pt").weights for seed in (0, 1))
    assert any(not torch.equal(value, second[name]) for name, value in first.items())
    copies = [(tmp_path / f"m.seed{seed}.pt").read_bytes() for seed in range(3)]
    assert (tmp_path / "m.pt").read_bytes() in copies


def test_init_is_for_new_runs_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "-o", str(tmp_path / "m.pt"), "--init", "a.pt", "--resume"])
    assert "--init: not allowed with --resume, which has its weights already" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_several_seeds(tiny_coco: Path, treecrowns: Path, tmp_path: Path) -> None:
    run = command(
        tiny_coco,
        treecrowns,
        tmp_path / "m.pt",
        "--seeds",
        "2",
        "--epochs",
        "9",
        "--lr",
        "1e-9",
        "--backbone-norm",
        "frozen",
        "--patience",
        "1",
    )
    printed = train_in_two_processes(run)
    assert printed.count("spread: ") == 1
    assert printed.count("ended early: the last 1 evaluation brought no gain of AP") == 2
    assert (tmp_path / "m.pt").is_file()
    assert (tmp_path / "m.seed1.report.html").is_file()
    assert train_in_two_processes([*run, "--resume"]).count("this run has ended") == 2
