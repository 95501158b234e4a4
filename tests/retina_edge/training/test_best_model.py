"""The better of averaged and raw weights is shipped, and a run that gains nothing ends early."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.core.errors import TrainingError
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.evaluation.coco_metrics import METRICS, Evaluation
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.train import main
from retina_edge.training.best_model import MIN_GAIN, BestModel
from retina_edge.training.observer import EpochReport, TrainingObserver
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.trainer import Trainer
from retina_edge.training.validation import Validated
from tests.interruption import interrupt_at
from tests.retina_edge.training.test_trainer import assert_equal, make_trainer, script_evaluations

pytestmark = pytest.mark.start_first

# An epoch of one step.
SHORT: dict[str, Any] = {"epoch_samples": 2, "batch": 2}


@pytest.fixture(scope="module")
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


def validated(ap: float) -> Validated:
    return Validated(Evaluation(dict.fromkeys(METRICS, 0.0) | {"AP": ap}, {}, 1, 0), 0, [])


def test_only_a_gain_that_the_log_can_show_starts_the_count_again() -> None:
    best, counts, taken = BestModel(), [], []
    for ap in (0.0, 0.2, 0.2, 0.2 + MIN_GAIN / 2, 0.1, 0.3, float("nan")):
        result = validated(ap)
        best.count(result)
        taken.append(best.take(result))
        counts.append(best.without_gain)
    assert counts == [0, 0, 1, 2, 3, 0, 1]
    # A better model is kept, however small the gain.
    assert taken == [True, True, False, True, False, True, False]
    assert best.ap == best.metrics["AP"] == 0.3
    again = BestModel()
    again.restore(best.ap, best.state())
    assert vars(again) == vars(best) | {"detections": None}
    older = BestModel()
    older.restore(0.5, None)
    assert older.metrics == {"AP": 0.5}
    assert older.without_gain == 0


@pytest.mark.parametrize("raw_ap", [0.3, 0.31])  # equal, and better
def test_the_better_of_averaged_and_raw_weights_is_shipped(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw_ap: float
) -> None:
    calls = script_evaluations(monkeypatch, 0.1, 0.3, 0.2, raw_ap)
    reports: list[EpochReport] = []
    shipped: list[bytes] = []

    class Reader(TrainingObserver):
        def on_epoch(self, report: EpochReport) -> None:
            reports.append(report)
            shipped.append((tmp_path / "model.pt").read_bytes())

    trainer = make_trainer(data, tmp_path / "model.pt", epochs=3, **SHORT)
    trainer.recipe = {"model": {}, "augment": {}, "options": {}, "choices": []}
    trainer.observer = Reader()
    trainer.run()
    assert len(calls) == 4  # one more than the epochs
    assert [report.raw is not None for report in reports] == [False, False, True]
    rows = list(csv.DictReader((tmp_path / "model.csv").read_text().splitlines()))
    assert [row["AP"] for row in rows] == ["0.1000", "0.3000", "0.2000"]
    assert [row["AP_raw"] for row in rows] == ["", "", f"{raw_ap:.4f}"]
    checkpoint = load_checkpoint(tmp_path / "model.pt")
    assert checkpoint.recipe is not None
    raw_is_better = raw_ap > 0.3
    assert (shipped[2] != shipped[1]) == raw_is_better
    assert trainer.best.ap == max(raw_ap, 0.3)
    if raw_is_better:
        assert_equal(
            checkpoint.weights,
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in trainer.model.state_dict().items()
            },
        )
        (choice,) = checkpoint.recipe["choices"]
        assert (choice["option"], choice["value"]) == ("weights", "not averaged")
        assert "0.3100" in choice["reason"]
    else:
        assert checkpoint.recipe["choices"] == []
    # The state to resume from keeps the average, and the recipe as it was.
    assert load_checkpoint(trainer.last_path).recipe == trainer.recipe


def test_without_an_average_nothing_is_evaluated_twice(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = script_evaluations(monkeypatch, 0.1, 0.3)
    make_trainer(data, tmp_path / "model.pt", epochs=2, ema=0.0, **SHORT).run()
    assert len(calls) == 2


def ended(trainer: Trainer) -> int:
    """Run to the end, and return the number of steps."""
    trainer.run()
    return trainer.step


def test_a_run_ends_after_evaluations_without_a_gain(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = script_evaluations(monkeypatch, 0.1, 0.3, 0.2, 0.3, 0.29)
    trainer = make_trainer(data, tmp_path / "model.pt", epochs=9, patience=2, **SHORT)
    assert ended(trainer) == 4
    assert len(calls) == 5  # the last one is of the raw weights, as at every end
    assert trainer.out_of_patience
    assert trainer.best.ap == 0.3
    # The run has ended, also for one that resumes it, unless that has more patience.
    resumed = make_trainer(data, tmp_path / "model.pt", epochs=9, patience=2, **SHORT)
    resumed.resume()
    assert resumed.has_ended
    assert resumed.run() is None
    calls = script_evaluations(monkeypatch, 0.3, 0.3)
    longer = make_trainer(data, tmp_path / "model.pt", epochs=9, patience=3, **SHORT)
    longer.resume()
    assert ended(longer) == 5
    assert len(calls) == 2


def test_the_verb_says_that_a_run_ended_early_and_how_it_goes_on(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that finds nothing gains nothing after its first evaluation."""
    small = (
        "--backbone resnet18 --backbone-weights none --backbone-levels 3 --fpn-channels 32 --head-depth 1 "
        "--head-norm group "
        "--input 96x128 --crop 96x128 --anchors 32 64 128 --epochs 9 --epoch-samples 2 --batch 2 --workers 0 --lr 1e-9"
    )
    command = [str(tiny_coco), "--images", str(treecrowns / "images"), "--val", str(tiny_coco), *small.split()]
    command += ["-o", str(tmp_path / "m.pt"), "--device", "cpu"]
    assert main([*command, "--patience", "1"]) == 0
    assert "ended early: the last 1 evaluation brought no gain of AP" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert [row["AP"] for row in rows] == ["0.0000", "0.0000"]
    assert main([*command, "--resume"]) == 0  # takes the patience from the checkpoint
    assert "or resume with a --patience of more than 1 evaluation" in capsys.readouterr().err
    assert main([*command, "--resume", "--patience", "2"]) == 0
    assert "after 3 steps in all" in capsys.readouterr().err
    with pytest.raises(ValueError, match="patience: expected 0 to 1000000, got -1"):
        TrainOptions(patience=-1)


def test_without_patience_a_run_trains_all_its_steps(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_evaluations(monkeypatch, *[0.1] * 4)
    assert ended(make_trainer(data, tmp_path / "model.pt", epochs=4, ema=0.0, **SHORT)) == 4


def test_a_resumed_run_keeps_the_count_and_equals_an_uninterrupted_one(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aps = (0.3, 0.2, 0.1, 0.25, 0.25)
    run: dict[str, Any] = {"epochs": 9, "patience": 3, **SHORT}
    script_evaluations(monkeypatch, *aps)
    whole = make_trainer(data, tmp_path / "whole.pt", **run)
    assert ended(whole) == 4
    script_evaluations(monkeypatch, *aps)
    broken = make_trainer(data, tmp_path / "broken.pt", on_step=interrupt_at(3), **run)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert broken.best.without_gain == 1  # the third evaluation was interrupted, and is repeated
    script_evaluations(monkeypatch, *aps[2:])
    resumed = make_trainer(data, tmp_path / "broken.pt", **run)
    resumed.resume()
    assert resumed.best.without_gain == 1
    assert ended(resumed) == 4
    actual, expected = load_checkpoint(resumed.last_path), load_checkpoint(whole.last_path)
    assert_equal(actual.training, expected.training)
    assert actual.training is not None
    assert actual.training["best"]["evaluations without gain"] == 3


def test_a_state_of_an_older_run_can_be_resumed(data: DetectionDataset, tmp_path: Path) -> None:
    """The file lacks what this version added: the state of the best model, and a column of the log."""
    trainer = make_trainer(data, tmp_path / "model.pt", on_step=interrupt_at(4))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    content = torch.load(trainer.last_path, weights_only=True)
    del content["training"]["best"], content["training"]["settings"]["patience"]
    torch.save(content, trainer.last_path)
    log = tmp_path / "model.csv"
    old = [line.rpartition(",")[0] for line in log.read_text().splitlines()]
    assert old[0].endswith(",ARl")
    log.write_text("\n".join(old) + "\n")
    resumed = make_trainer(data, tmp_path / "model.pt")
    resumed.resume()
    resumed.run()
    assert resumed.step == 8
    rows = list(csv.reader(log.read_text().splitlines()))
    assert [len(row) for row in rows] == [len(rows[0])] * 3
    content["training"]["best"] = {"metrics": {}, "evaluations without gain": -1}
    torch.save(content, trainer.last_path)
    with pytest.raises(TrainingError, match=r"best\.evaluations without gain: expected 0 or more, got -1"):
        make_trainer(data, tmp_path / "model.pt").resume()
