"""A damaged, foreign or hostile ``model.last.pt`` is refused in one line, and takes no more memory than the run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.core.errors import ModelFileError, TrainingError
from retina_edge.api.given_options import GivenOptions
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.training import training_state
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.trainer import Trainer
from tests.hostile import VALUES, accepted, damaged
from tests.retina_edge.training.test_trainer import make_trainer

RUNS: dict[str, dict[str, Any]] = {
    "sgd": {"ema": 0.0},
    "adamw": {"optimizer": "adamw"},
    "minutes": {"minutes": 1.0},
}


@pytest.fixture(scope="module")
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


def started(data: DetectionDataset, folder: Path, run: str) -> Trainer:
    """Return a run after its first step, which is saved."""
    trainer = make_trainer(data, folder / "model.pt", **RUNS[run])
    trainer.budget.start()
    trainer.train_step(*next(iter(trainer.loader)))
    trainer.step = 1
    trainer.unfinished = {"classification": 1.0, "bbox_regression": 0.5, "images_per_second": 3.0}
    trainer.save_last()
    return trainer


@pytest.fixture(scope="module", params=RUNS)
def saved(
    request: pytest.FixtureRequest, data: DetectionDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trainer, dict[str, Any]]:
    """A run after its first step, and its state."""
    trainer = started(data, tmp_path_factory.mktemp("state"), request.param)
    trainer.resume()  # the state as it is
    return trainer, torch.load(trainer.last_path, weights_only=True)["training"]


def places(value: object) -> list[tuple[Any, ...]]:
    """Return the path of each value in a state; of many tensors, the first and the last."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    if len(items) > 20 and isinstance(items[0][1], torch.Tensor | dict):
        items = [items[0], items[-1]]
    return [path for key, item in items for path in ((key,), *((key, *rest) for rest in places(item)))]


# 4 TB, if anything copied it.
STRETCHED = torch.zeros(1).expand(1 << 40)
TENSORS = [
    torch.zeros(1),
    torch.tensor(-1.0),
    torch.tensor(-20),
    torch.tensor(math.nan),
    STRETCHED,
    torch.zeros(3, dtype=torch.complex64),
    torch.zeros(0),
]


def copied(value: Any) -> Any:
    """Return a copy of the dictionaries and lists, with the same tensors."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=60, deadline=None)
@given(edit=st.data())
def test_a_changed_state_is_refused_in_one_line_or_trains_on(
    saved: tuple[Trainer, dict[str, Any]], edit: st.DataObject
) -> None:
    trainer, valid = saved
    state = copied(valid)
    *outer, last = edit.draw(st.sampled_from([*places(valid), ("added",), ("optimizer", "state", "added")]))
    inner: Any = state
    for key in outer:
        inner = inner[key]
    if last in inner and edit.draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = edit.draw(VALUES | st.sampled_from(TENSORS))

    def resume() -> bool:
        trainer.resume()
        return True

    read = Checkpoint(trainer.contract, trainer.model.config, {}, training=state)
    with pytest.MonkeyPatch.context() as patch:  # a file for each example would take long
        patch.setattr(training_state, "load_checkpoint", lambda _path: read)
        if accepted(resume):
            losses = trainer.train_step(*next(iter(trainer.loader)))
            assert all(math.isfinite(value) for value in losses.values())


BIAS = "head.regression_head.bbox_reg.bias"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("step",), -1, r"step: expected 0 to \d+, got -1"),
        (("best_ap",), math.nan, "best_ap: expected a finite number, got nan"),
        (("unfinished",), {}, "unfinished: expected other fields: missing"),
        (("unfinished", "distill_logits"), 1.0, "unfinished: expected other fields: unknown .'distill_logits'"),
        (("settings",), {}, "made with other settings: .*; and \\d+ more; resume with the same settings"),
        (("model", BIAS), STRETCHED, rf"'model.{BIAS}': expected float32 \[36\], got float32 \[{1 << 40}\]"),
        (("ema", f"module.{BIAS}"), torch.full((36,), math.nan), "expected finite numbers, got NaN or infinity"),
        (("ema", "n_averaged"), torch.tensor(-10), "ema.n_averaged: expected 0 or more, got -10"),
        (("ranges",), [torch.ones(5)], r"'ranges.0': expected none, got float32 \[5\]"),
        (("optimizer",), 3, "optimizer: expected its state, got 3"),
        (("optimizer", "state", 0), {}, None),
        (("optimizer", "state", 0, "exp_avg"), "x", "optimizer.0.exp_avg: expected tensors by name, got 'x'"),
        (("optimizer", "state", 0, "step"), torch.tensor(-1.0), "optimizer.0.step: expected 0 or more, got -1"),
        (("optimizer", "state", 9999), {"step": torch.ones(())}, "'optimizer.9999.step': expected none"),
        (("optimizer", "param_groups"), [{"lr": math.nan}], None),
        (("scaler",), {"scale": "1"}, "scaler.scale: expected a finite number, got '1'"),
    ],
)
def test_each_part_of_a_state_is_checked(
    data: DetectionDataset, tmp_path: Path, place: tuple[Any, ...], value: object, message: str | None
) -> None:
    trainer = started(data, tmp_path, "adamw")
    state = torch.load(trainer.last_path, weights_only=True)["training"]
    *outer, last = place
    inner = state
    for key in outer:
        inner = inner[key]
    inner[last] = value
    dataclasses.replace(trainer.checkpoint(), training=state).save(trainer.last_path)
    if message is None:
        trainer.resume()
        assert math.isfinite(trainer.optimizer.param_groups[0]["lr"])
        return
    with pytest.raises(TrainingError, match=rf"model\.last\.pt.*{message}"):
        trainer.resume()


def test_the_scale_of_mixed_precision_is_checked(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = started(data, tmp_path, "sgd")
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    with pytest.raises(TrainingError, match="scaler: expected other fields: missing"):
        trainer.resume()
    trainer.save_last()
    trainer.resume()
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=0.0, enabled=True)
    trainer.save_last()
    with pytest.raises(TrainingError, match=r"scaler.scale: expected more than 0 .*, got 0\.0"):
        trainer.resume()


RECIPE = {
    "model": dataclasses.asdict(ModelOptions()),
    "augment": dataclasses.asdict(AugmentOptions()),
    "options": dataclasses.asdict(TrainOptions()),
}


@settings(max_examples=200, deadline=None)
@given(damaged(json.loads(json.dumps(RECIPE))))
def test_a_damaged_recipe_is_refused_or_usable(text: str) -> None:
    recipe = json.loads(text)
    if any(not isinstance(recipe.get(name), dict) for name in RECIPE):
        return  # load_checkpoint refuses it
    given = accepted(lambda: GivenOptions({}, {}, {"batch": 3}).or_else(recipe, Path("model.last.pt")))
    if given:
        ModelOptions(**given.model).config(num_classes=2)
        AugmentOptions(**given.augment)
        assert TrainOptions(**given.options).batch == 3


def test_a_recipe_cannot_ask_for_any_number_of_processes() -> None:
    recipe = {**RECIPE, "options": {"workers": 10**9}}
    with pytest.raises(
        ModelFileError, match=r"^a\.pt: expected a recipe .*options: workers: expected 0 to 1024, got 10+;"
    ):
        GivenOptions({}, {}, {}).or_else(recipe, Path("a.pt"))


def test_a_truncated_state_is_refused(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = started(data, tmp_path, "sgd")
    content = trainer.last_path.read_bytes()
    trainer.last_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        ModelFileError, match=r"model\.last\.pt: expected a checkpoint of retina_edge, but torch cannot"
    ):
        trainer.resume()
