"""Runs with all augmentations resume bit for bit and end on natural images; earlier runs can still be resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from engines.core.errors import TrainingError
from retina_edge.api.given_options import GivenOptions
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.data.loading import AugmentedDataset, Sample
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.system.stop_request import StopRequest
from retina_edge.train import _given, build_parser
from retina_edge.training.option_names import AUGMENT_FIELDS
from retina_edge.training.progress import TimeBudget
from tests.interruption import interrupt_at
from tests.retina_edge.training.test_trainer import SIZE, assert_equal, make_trainer

COMPOSED = AugmentOptions(SIZE, SIZE, (0.1, 2.0), "dihedral", photometric="strong", mosaic=0.6, copy_paste=0.6)


@pytest.fixture(scope="module")
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list that gets, for each sample, whether it might be composed of several images."""
    found: list[bool] = []
    sample = AugmentedDataset.sample

    def recorded(self: AugmentedDataset, index: int, seed: int, composed: bool = True) -> Sample:
        found.append(composed)
        return sample(self, index, seed, composed)

    monkeypatch.setattr(AugmentedDataset, "sample", recorded)
    return found


def test_a_composed_run_resumes_bit_for_bit(data: DetectionDataset, tmp_path: Path) -> None:
    """Of 8 steps, 6 are trained before the interruption, and one of the others has composed samples."""
    whole = make_trainer(data, tmp_path / "whole.pt", augment=COMPOSED)
    whole.run()
    broken = make_trainer(data, tmp_path / "broken.pt", augment=COMPOSED, on_step=interrupt_at(6))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = make_trainer(data, tmp_path / "broken.pt", augment=COMPOSED, workers=1)
    resumed.resume()
    resumed.run()
    actual, expected = load_checkpoint(resumed.last_path), load_checkpoint(whole.last_path)
    assert actual.training is not None
    assert expected.training is not None
    assert_equal(actual.training["model"], expected.training["model"])
    assert_equal(actual.training["optimizer"], expected.training["optimizer"])
    assert_equal(actual.weights, expected.weights)


def test_a_run_ends_on_natural_images(data: DetectionDataset, tmp_path: Path, composed: list[bool]) -> None:
    """Of 10 steps, those from step 8.5 on are natural: the last one."""
    make_trainer(data, tmp_path / "model.pt", augment=COMPOSED, epochs=5, epoch_samples=4).run()
    assert composed == [True] * (9 * 2) + [False] * 2


@pytest.mark.parametrize(("spent", "expected"), [(30.0, True), (54.0, False)])
def test_a_run_with_a_time_ends_on_natural_images(
    data: DetectionDataset, tmp_path: Path, composed: list[bool], spent: float, expected: bool
) -> None:
    """After 10 steps in half of the time, 20 are expected, of which 17 may be composed; in nine tenths, 11 and 9."""
    trainer = make_trainer(data, tmp_path / "model.pt", augment=COMPOSED, minutes=1.0, epoch_samples=4)
    trainer.budget = TimeBudget(60.0, spent=spent, clock=lambda: 0.0)
    trainer.step = 10
    trainer.train_one_epoch(5, 0, StopRequest())
    assert composed == [expected] * 4


def test_a_run_with_a_time_and_one_epoch_ends_on_natural_images(
    data: DetectionDataset, tmp_path: Path, composed: list[bool]
) -> None:
    """The plan says 100 steps, but the time ends after 10."""
    trainer = make_trainer(
        data, tmp_path / "model.pt", augment=COMPOSED, minutes=1.0, epochs=1, epoch_samples=200, workers=0, ema=0.0
    )
    trainer.budget = TimeBudget(60.0, clock=lambda: 6.0 * trainer.step)
    trainer.budget.start()
    trainer.train_one_epoch(0, 0, StopRequest())
    assert trainer.step == 10
    assert composed == [True] * (9 * 2) + [False] * 2


def test_a_state_of_an_earlier_version_can_be_resumed(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "model.pt")
    trainer.save_last()
    content = torch.load(trainer.last_path, weights_only=True)
    settings = content["training"]["settings"]
    del settings["mosaic"], settings["copy_paste"], settings["validation images"]
    settings["photometric"] = True
    torch.save(content, trainer.last_path)
    trainer.resume()
    fewer = dataclasses.replace(data, images=data.images[:-1])
    trainer.val_data = fewer
    trainer.save_last()
    with pytest.raises(TrainingError, match=rf"validation images: expected {len(fewer)}, got {len(data)}"):
        make_trainer(data, tmp_path / "model.pt").resume()
    trainer.val_data = data
    trainer.save_last()
    for augment, message in (
        (AugmentOptions(SIZE, SIZE, photometric="none"), "photometric: expected 'usual', got 'none'"),
        (AugmentOptions(SIZE, SIZE, mosaic=0.5), r"mosaic: expected 0\.0, got 0\.5"),
        (AugmentOptions(SIZE, SIZE, copy_paste=0.5), r"copy_paste: expected 0\.0, got 0\.5"),
    ):
        with pytest.raises(TrainingError, match=message):
            make_trainer(data, tmp_path / "model.pt", augment=augment).resume()


def test_a_recipe_of_an_earlier_version_is_taken() -> None:
    augment = {"size": [96, 128], "scale": [0.7, 1.4], "orientation": "none", "photometric": False, "min_visible": 0.4}
    given = GivenOptions({}, {}, {}).or_else({"model": {}, "augment": augment, "options": {}}, Path("a.last.pt"))
    assert AugmentOptions(**given.augment) == AugmentOptions((96, 128), orientation="none", photometric="none")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", AugmentOptions()),
        ("--no-photometric", AugmentOptions(photometric="none")),
        ("--photometric strong", AugmentOptions(photometric="strong")),
        ("--scale 0.1 2 --mosaic 0.5 --copy-paste 0.25", AugmentOptions(scale=(0.1, 2), mosaic=0.5, copy_paste=0.25)),
    ],
)
def test_the_command_line_sets_the_fields(words: str, expected: AugmentOptions) -> None:
    args = build_parser().parse_args(["train.json", "-o", "model.pt", *words.split()])
    assert AugmentOptions(**_given(args, AUGMENT_FIELDS)) == expected


def test_two_levels_of_photometric_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args("train.json -o model.pt --photometric strong --no-photometric".split())
    assert "--no-photometric: not allowed with argument --photometric" in capsys.readouterr().err
