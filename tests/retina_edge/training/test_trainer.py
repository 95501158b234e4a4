"""Training learns, resumes bit for bit, stops properly, and ends with an error if the loss is not finite."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.core.errors import SourceError, TrainingError
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.evaluation.coco_metrics import METRICS, Evaluation
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.model.config import ModelConfig
from retina_edge.training.criterion import RetinaNetCriterion
from retina_edge.training.initialize import initialize_from, new_model
from retina_edge.training.observer import EpochReport, StepReport, TrainingObserver
from retina_edge.training.optimization import amp_dtype, learning_rate, make_optimizer
from retina_edge.training.processes import ProcessGroup
from retina_edge.training.progress import TimeBudget
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.trainer import Trainer
from tests.interruption import interrupt_at
from tests.models import TINY

pytestmark = pytest.mark.start_first

CPU = ProcessGroup(0, 1, torch.device("cpu"))
SIZE = (96, 128)
OPTIONS = TrainOptions(
    epochs=2, epoch_samples=8, batch=2, learning_rate=0.005, warmup_steps=2, amp="off", ema=0.9, workers=0
)


@pytest.fixture(scope="module")
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


class StepObserver(TrainingObserver):
    """Passes each step to a function."""

    def __init__(self, on_step: Callable[[StepReport], object]) -> None:
        self._on_step = on_step

    def on_step(self, report: StepReport) -> None:
        self._on_step(report)


def make_trainer(data: DetectionDataset, output: Path, *, config: ModelConfig = TINY, **changes: Any) -> Trainer:
    observer = StepObserver(changes.pop("on_step", lambda _report: None))
    model, contract = new_model(config, data, SIZE, seed=1)
    augment = changes.pop("augment", AugmentOptions(SIZE, SIZE))
    options = dataclasses.replace(OPTIONS, **changes)
    return Trainer(
        model, contract, data, data, augment=augment, options=options, output=output, group=CPU, observer=observer
    )


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.mark.parametrize(
    ("stop_after", "head_norm"), [(4, "group"), (6, "group"), (6, "batch"), (6, "frozen")]
)  # at the end of an epoch, and inside one
def test_a_resumed_run_equals_an_uninterrupted_one(
    data: DetectionDataset, tmp_path: Path, stop_after: int, head_norm: str
) -> None:
    config = dataclasses.replace(TINY, head_norm=head_norm)
    whole = make_trainer(data, tmp_path / "whole.pt", config=config)
    whole.run()
    broken = make_trainer(data, tmp_path / "broken.pt", config=config, on_step=interrupt_at(stop_after))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert load_checkpoint(broken.last_path).training["step"] == stop_after  # type: ignore[index]
    resumed = make_trainer(data, tmp_path / "broken.pt", config=config, workers=1)
    resumed.resume()
    resumed.run()
    actual, expected = load_checkpoint(resumed.last_path), load_checkpoint(whole.last_path)
    assert actual.training is not None
    assert expected.training is not None
    actual.training["settings"]["workers"] = 0
    assert_equal(actual.training, expected.training)
    assert_equal(actual.weights, expected.weights)
    rows = list(csv.DictReader((tmp_path / "broken.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2]


def test_training_changes_all_weights_and_ships_their_average(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "model.pt")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    result = trainer.run()
    assert result is not None
    assert result.images == 4
    after = trainer.model.state_dict()
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(changed) == len(after)  # every weight and statistic has changed
    shipped = load_checkpoint(tmp_path / "model.last.pt").weights
    name = "head.classification_head.cls_logits.weight"
    assert not torch.equal(shipped[name], after[name])
    assert_equal(shipped, dict(trainer.evaluated_model().state_dict()))


@pytest.mark.parametrize(
    ("steps", "classification", "regression"),
    [(60, 0.05, 0.15), pytest.param(240, 0.005, 0.05, marks=pytest.mark.slow)],
)
def test_training_overfits_two_images(
    data: DetectionDataset, steps: int, classification: float, regression: float
) -> None:
    """With the right targets, the losses on two images fall, in the end to almost zero."""
    model, contract = new_model(TINY, data, (128, 128), seed=0)
    trainer_data = [data.images[0], data.images[1]]
    images, targets = [], []
    for labeled in trainer_data:
        images.append(torch.from_numpy(labeled.read()[100:228, 100:228].copy()))
        boxes = torch.from_numpy(labeled.boxes) - 100
        clipped = boxes.clamp(0, 128)
        keep = (clipped[:, 2:] - clipped[:, :2]).min(1).values > 12
        targets.append({"boxes": clipped[keep], "labels": torch.from_numpy(labeled.labels)[keep]})
    assert sum(len(target["boxes"]) for target in targets) >= 6
    options = dataclasses.replace(OPTIONS, optimizer="adamw", learning_rate=2e-3, schedule="constant", ema=0.0)
    trainer = Trainer(
        model, contract, data, data,
        augment=AugmentOptions((128, 128), (128, 128)), options=options, output=Path("unused.pt"), group=CPU,
    )  # fmt: skip
    trainer.model.train()
    losses = {}
    for trainer.step in range(steps):
        losses = trainer.train_step(torch.stack(images), targets)
    assert losses["classification"] < classification
    assert losses["bbox_regression"] < regression


def test_losses_equal_those_of_torchvision(data: DetectionDataset) -> None:
    """The losses equal those of torchvision's own RetinaNet on the same features."""
    from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
    from torchvision.models.detection.image_list import ImageList

    model, _ = new_model(TINY, data, SIZE, seed=0)
    reference = TorchvisionRetinaNet(model.backbone, 1, anchor_generator=model.anchor_generator, head=model.head)
    images = torch.rand(2, 3, *SIZE)
    targets = [
        {"boxes": torch.tensor([[10.0, 20, 60, 70], [50, 30, 90, 90]]), "labels": torch.zeros(2, dtype=torch.int64)},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    model.eval()
    losses = RetinaNetCriterion(model)(model(images), targets, SIZE)
    features = list(model.backbone(images).values())
    anchors = model.anchor_generator(ImageList(images, [SIZE, SIZE]), features)
    expected = reference.compute_loss(targets, model.head(features), anchors)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-6)
        assert value.item() > 0


def test_a_loss_that_is_not_finite_ends_the_run_and_says_how_to_fix_it(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "model.pt", learning_rate=1e30, clip_norm=0.0, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"loss is not finite at step \d: .*lower the learning rate"):
        trainer.run()
    assert not (tmp_path / "model.pt").exists()


def test_resuming_without_a_state_or_with_other_settings_is_refused(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "model.pt")
    with pytest.raises(TrainingError, match="expected a checkpoint to resume, found no file"):
        trainer.resume()
    trainer.checkpoint().save(trainer.last_path)
    with pytest.raises(TrainingError, match="expected a checkpoint with training state"):
        trainer.resume()
    trainer.save_last()
    with pytest.raises(TrainingError, match="batch: expected 2, got 4"):
        make_trainer(data, tmp_path / "model.pt", batch=4).resume()
    with pytest.raises(TrainingError, match="training images: expected 4, got 3"):
        make_trainer(dataclasses.replace(data, images=data.images[:3]), tmp_path / "model.pt").resume()
    deeper = make_trainer(data, tmp_path / "model.pt")
    deeper.contract = dataclasses.replace(deeper.contract, bit_depth=12)
    with pytest.raises(TrainingError, match="bit_depth: expected 16, got 12"):
        deeper.resume()
    # An image that was damaged since may be left out.
    fewer = make_trainer(dataclasses.replace(data, images=data.images[:3], left_out=1), tmp_path / "model.pt")
    fewer.resume()
    fewer.run()
    other = make_trainer(data, tmp_path / "model.pt")
    other.model.config = dataclasses.replace(TINY, box_loss="giou")
    with pytest.raises(TrainingError, match="box_loss: expected 'l1', got 'giou'"):
        other.resume()


def script_evaluations(monkeypatch: pytest.MonkeyPatch, *aps: float) -> list[int]:
    """Make evaluations return these APs in turn. Return a list that gets the number of images of each evaluation."""
    calls: list[int] = []

    def evaluate(_: object, data: DetectionDataset, **__: object) -> Evaluation:
        calls.append(len(data))
        metrics = dict.fromkeys(METRICS, 0.0) | {"AP": aps[len(calls) - 1]}
        return Evaluation(metrics, {"tree": 0.0}, len(data), 0)

    monkeypatch.setattr("retina_edge.training.validation.evaluate_detections", evaluate)
    return calls


def test_the_checkpoint_with_the_best_ap_is_kept(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = script_evaluations(monkeypatch, 0.1, 0.3, 0.2)
    kept: list[bytes] = []
    trainer = make_trainer(data, tmp_path / "model.pt", epochs=3, epoch_samples=2, ema=0.0)

    class Keeper(TrainingObserver):
        def on_epoch(self, _report: EpochReport) -> None:
            kept.append((tmp_path / "model.pt").read_bytes())

    trainer.observer = Keeper()
    trainer.run()
    assert len(calls) == 3
    assert kept[0] != kept[1] == kept[2]
    assert trainer.best.ap == 0.3


def test_eval_every_skips_evaluations_except_the_last(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = script_evaluations(monkeypatch, 0.1, 0.2, 0.3)
    make_trainer(data, tmp_path / "model.pt", epochs=5, epoch_samples=2, eval_every=2, ema=0.0).run()
    assert len(calls) == 3  # after epochs 2, 4 and the last
    rows = list(csv.DictReader((tmp_path / "model.csv").read_text().splitlines()))
    assert [row["AP"] for row in rows] == ["", "0.1000", "", "0.2000", "0.3000"]


def test_resuming_after_a_failed_evaluation_repeats_only_the_evaluation(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Evaluation:
        raise SourceError("val.jpg: truncated")

    with monkeypatch.context() as patch:
        patch.setattr("retina_edge.training.validation.detect_all", fail)
        with pytest.raises(SourceError):
            make_trainer(data, tmp_path / "model.pt", ema=0.0).run()
    resumed = make_trainer(data, tmp_path / "model.pt", ema=0.0)
    resumed.resume()
    assert resumed.step == 4
    calls = script_evaluations(monkeypatch, 0.5, 0.4)
    resumed.run()
    assert len(calls) == 2
    rows = list(csv.DictReader((tmp_path / "model.csv").read_text().splitlines()))
    assert [(row["epoch"], row["AP"]) for row in rows] == [("1", "0.5000"), ("2", "0.4000")]
    assert float(rows[0]["classification"]) > 0


def test_ctrl_c_in_an_evaluation_saves_the_trained_epoch(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "model.pt")

    class Interrupter(TrainingObserver):
        def on_evaluated(self, done: int, _images: int) -> None:
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)

    trainer.observer = Interrupter()
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    state = load_checkpoint(trainer.last_path).training
    assert state is not None
    assert state["step"] == 4
    assert state["unfinished"] is not None


def test_a_run_with_a_time_ends_by_the_clock_with_a_rate_of_zero(data: DetectionDataset, tmp_path: Path) -> None:
    seconds = 6.0
    rates: list[float] = []
    run: dict[str, Any] = {"epochs": 1, "minutes": seconds / 60, "schedule": "cosine"}
    trainer = make_trainer(
        data, tmp_path / "model.pt", **run, on_step=lambda report: rates.append(report.learning_rate)
    )
    started = time.monotonic()
    result = trainer.run()
    assert result is not None  # the last evaluation
    assert time.monotonic() - started < 3 * seconds
    assert trainer.step > trainer.sampler.batches  # more than the planned epoch
    assert rates[-1] < 0.2 * max(rates)
    resumed = make_trainer(data, tmp_path / "model.pt", **run)
    resumed.resume()
    assert resumed.run() is None  # no time is left


def test_a_resumed_run_with_a_time_has_the_progress_of_the_interrupted_one(
    data: DetectionDataset, tmp_path: Path
) -> None:
    """The time of the last evaluations stays reserved, so the rate does not rise."""
    run: dict[str, Any] = {"epochs": 1, "minutes": 30.0}
    trainer = make_trainer(data, tmp_path / "model.pt", **run)
    trainer.budget = TimeBudget(1800.0, spent=1500.0)
    trainer.budget.evaluated(120.0, reserved=2)
    trainer.save_last()
    resumed = make_trainer(data, tmp_path / "model.pt", **run)
    resumed.resume()
    assert resumed.progress() == trainer.progress() == pytest.approx(1500 / 1560)
    assert resumed.budget.evaluating == 120


def test_a_step_that_goes_on_too_long_after_ctrl_c_is_abandoned(
    data: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is that before the step, so a resumed run equals an uninterrupted one."""
    monkeypatch.setattr("retina_edge.training.step_guard.PATIENCE", 0.0)
    whole = make_trainer(data, tmp_path / "whole.pt")
    whole.run()
    for phase in ("forward", "backward"):
        broken = make_trainer(data, tmp_path / "broken.pt")
        head = broken.model.head.classification_head.cls_logits

        def interrupt(*_: object, trainer: Trainer = broken) -> None:
            if trainer.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

        if phase == "forward":
            head.register_forward_pre_hook(interrupt)
        else:
            head.register_full_backward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            broken.run()
        assert broken.step == 2
        resumed = make_trainer(data, tmp_path / "broken.pt")
        resumed.resume()
        resumed.run()
        actual, expected = load_checkpoint(resumed.last_path), load_checkpoint(whole.last_path)
        assert_equal(actual.training, expected.training)


def test_only_weights_decay_and_gradients_are_clipped(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "model.pt", weight_decay=0.5, clip_norm=1e-3)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    for group in make_optimizer(trainer.model, trainer.options).param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0.0), names[id(parameter)]
    trainer.train_step(*next(iter(trainer.loader)))
    gradients = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    assert gradients.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_fine_tuning_copies_what_fits_and_reports_the_rest(data: DetectionDataset) -> None:
    model, contract = new_model(TINY, data, SIZE, seed=0)
    trainer_source, other = new_model(TINY, data, SIZE, seed=1)
    from retina_edge.model.checkpoint import Checkpoint

    source = Checkpoint(other, TINY, trainer_source.state_dict())
    assert initialize_from(model, contract, source) == []
    assert_equal(dict(model.state_dict()), dict(trainer_source.state_dict()))

    three = dataclasses.replace(data, class_names=("a", "b", "c"), category_ids=(1, 2, 3))
    config = dataclasses.replace(TINY, num_classes=3)
    model, contract = new_model(config, three, SIZE, seed=0)
    initial = model.head.classification_head.cls_logits.weight.clone()
    (message,) = initialize_from(model, contract, source)
    assert message.startswith("class head re-initialized: the checkpoint has 1 classes (tree)")
    assert torch.equal(model.head.classification_head.cls_logits.weight, initial)
    name = "head.regression_head.bbox_reg.weight"
    assert torch.equal(model.state_dict()[name], source.weights[name])


@pytest.mark.parametrize("schedule", ["multistep", "cosine", "constant"])
def test_the_learning_rate_follows_warm_up_and_schedule(schedule: str) -> None:
    options = TrainOptions(schedule=schedule, learning_rate=0.1, warmup_steps=10)
    rates = [learning_rate(options, step, step / 90) for step in range(90)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[1:10] == sorted(rates[1:10])
    assert rates[30] == pytest.approx({"cosine": 0.05 * (1 + math.cos(math.pi / 3))}.get(schedule, 0.1))
    expected = {"multistep": 0.001, "cosine": 0.05 * (1 + math.cos(math.pi * 89 / 90)), "constant": 0.1}
    assert rates[89] == pytest.approx(expected[schedule])
    if schedule == "multistep":
        assert [rates[step] for step in (59, 60, 79, 80)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_options_are_checked() -> None:
    for changes, message in (
        ({"optimizer": "lion"}, "optimizer: expected one of sgd, adamw, got lion"),
        ({"schedule": "x"}, "schedule"),
        ({"epochs": 0}, "epochs: expected 1 to 1000000"),
        ({"learning_rate": 0.0}, "more than 0"),
        ({"ema": 1.0}, "ema"),
        ({"workers": -1}, "workers"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainOptions(**changes)


def test_amp_on_a_cpu_is_bf16_or_off() -> None:
    assert amp_dtype("off", CPU.device) is None
    assert amp_dtype("bf16", CPU.device) is torch.bfloat16
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        amp_dtype("fp16", CPU.device)
