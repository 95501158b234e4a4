"""A run gets remarks on everything that cannot work, before it begins or once it shows, and no others."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from retina_edge.data.anchor_fit import AnchorFit, SizeFit
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.summary import DataSummary
from retina_edge.training.findings import LearningWatch, findings
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.plan import CPU, Facts
from retina_edge.training.train_options import TrainOptions

SHAPES = DataSummary(18, 0, (480, 640), {"disc": 50, "square": 40, "triangle": 40}, (13.0, 27.0, 90.0))
FACTS = Facts(SHAPES, CPU, cores=2, pretrained=False)
GOOD = TrainOptions(
    epochs=8, epoch_samples=1600, batch=8, optimizer="adamw", learning_rate=1e-3, warmup_steps=80, minutes=8
)
AUGMENT = AugmentOptions(size=(160, 160)).for_input((480, 640))
MODEL = ModelOptions(fpn_channels=64, head_norm="group")
FIT = AnchorFit((16.0, 32.0, 64.0), (1.0,), {"all": SizeFit(130, 0.98, 0.7)}, under_stride=0.0)


def found(options: TrainOptions = GOOD, fit: AnchorFit = FIT, hours: float | None = 0.1, **augment: Any) -> list[str]:
    return list(findings(FACTS, options, dataclasses.replace(AUGMENT, **augment), MODEL, fit, hours=hours))


def test_a_good_run_gets_no_remark() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "message", "way_out"),
    [
        ({"warmup_steps": 5000}, "longer than 50% of the run of 1600", "omit --warmup"),
        ({"epoch_samples": 0, "epochs": 300}, "leaves out 2 of 18 images", "--epoch-samples"),
        ({"epoch_samples": 16, "warmup_steps": 1}, "16 steps are few", "give more --minutes"),
        ({"learning_rate": 0.1}, "0.1 is far from the usual 0.001", "omit --lr"),
        ({"optimizer": "sgd", "learning_rate": 1e-5}, "1e-05 is far from the usual 0.005", "omit --lr"),
    ],
)
def test_options_that_cannot_work_are_named_with_the_way_out(
    changes: dict[str, Any], message: str, way_out: str
) -> None:
    (only,) = found(dataclasses.replace(GOOD, **changes))
    assert message in only
    assert way_out in only


def test_the_run_of_a_first_user_is_warned_of_everything_that_was_wrong() -> None:
    """18 images in batches of 8, with the paper's warm-up."""
    remarks = found(dataclasses.replace(GOOD, epochs=12, epoch_samples=0, warmup_steps=500))
    for part in ("the warm-up of 500 steps", "leaves out 2 of 18 images", "24 steps are few"):
        assert any(part in remark for remark in remarks), part


def test_objects_that_cannot_be_learned_are_named() -> None:
    (small,) = found(fit=dataclasses.replace(FIT, under_stride=0.4))
    assert "40% of the objects have a side shorter than 8 pixels" in small
    (unmatched,) = found(fit=dataclasses.replace(FIT, sizes={"all": SizeFit(130, 0.6, 0.5)}))
    assert "no anchor matches 40% of the objects: use --anchors auto" in unmatched
    (turned,) = found(size=(96, 160), orientation="dihedral")
    assert "a crop of 96x160 has no quarter turns" in turned
    assert not found(size=(160, 160), orientation="dihedral")
    (cut,) = found(size=(64, 64))
    assert "large objects have 90 pixels in the input, more than the crop of 64x64" in cut


def test_groups_of_one_channel_are_named() -> None:
    model = dataclasses.replace(MODEL, fpn_channels=32)
    (only,) = findings(FACTS, GOOD, AUGMENT, model, FIT, hours=0.1)
    assert "each of the 32 channels is normalized alone" in only
    assert "use --fpn-channels 64 or more, or --head-norm batch" in only
    assert not list(findings(FACTS, GOOD, AUGMENT, dataclasses.replace(model, head_norm="batch"), FIT, hours=0.1))


def test_a_time_that_the_user_gave_is_not_called_long_and_a_long_evaluation_is_named() -> None:
    assert found(hours=14.2) == []
    (only,) = findings(FACTS, GOOD, AUGMENT, MODEL, FIT, hours=0.1, evaluation=1000.0)
    assert "an evaluation takes about 17 min of a run of 8 min: validate on fewer images" in only


def test_images_that_repeat_are_not_called_left_out() -> None:
    few = dataclasses.replace(FACTS, data=dataclasses.replace(SHAPES, images=5))
    options = dataclasses.replace(GOOD, epochs=300, epoch_samples=0, warmup_steps=5, minutes=0)
    assert list(findings(few, options, AUGMENT, MODEL, FIT, hours=0.1)) == []


def test_a_run_of_many_hours_on_a_cpu_is_named() -> None:
    (only,) = found(dataclasses.replace(GOOD, minutes=0), hours=14.2)
    assert "this run from random weights takes about 14 hours on this CPU: --minutes N" in only


def test_a_run_that_learns_nothing_is_named_once() -> None:
    watch = LearningWatch(1000)
    assert watch.check(step=100, loss=1.131, ap50=0.0) is None  # too early to tell
    assert watch.check(step=200, loss=1.131, ap50=0.0) is None
    message = watch.check(step=400, loss=1.131, ap50=0.0)
    assert message is not None
    assert "after 400 steps the loss is still 1.131" in message
    assert message.index("--lr") < message.index("too few steps") < message.index("boxes") < message.index("--input")
    assert watch.check(step=600, loss=1.131, ap50=0.0) is None


def test_a_model_that_finds_something_is_not_called_unmoved_in_an_epoch_without_an_evaluation() -> None:
    watch = LearningWatch(total_steps=1000)
    assert watch.check(step=900, loss=0.300, ap50=0.62) is None
    assert watch.check(step=950, loss=0.298, ap50=None) is None
    resumed = LearningWatch(total_steps=1000, resumed=True)
    assert resumed.check(step=900, loss=0.300, ap50=None) is None
    assert resumed.check(step=950, loss=0.298, ap50=None) is None
    assert resumed.check(step=990, loss=0.298, ap50=0.0) is not None
    unmeasured = LearningWatch(total_steps=1000)
    assert unmeasured.check(step=900, loss=0.300, ap50=None) is None
    assert unmeasured.check(step=950, loss=0.298, ap50=None) is not None


def test_normalization_that_cannot_work_is_named() -> None:
    batch = dataclasses.replace(MODEL, head_norm="batch")
    small = dataclasses.replace(GOOD, batch=4)
    (few,) = findings(FACTS, small, AUGMENT, batch, FIT, hours=0.1)
    assert "needs the statistics of 8 images or more, and a step has 4: use a larger --batch, or --head-norm" in few
    two = dataclasses.replace(FACTS, world=2)  # the statistics are those of both processes
    assert not list(findings(two, small, AUGMENT, batch, FIT, hours=0.1))
    frozen = dataclasses.replace(MODEL, backbone_norm="frozen")
    (fixed,) = findings(FACTS, GOOD, AUGMENT, frozen, FIT, hours=0.1)
    assert "random weights has no normalization: use --backbone-norm batch, or pretrained weights" in fixed
    pretrained = dataclasses.replace(FACTS, pretrained=True)
    options = dataclasses.replace(GOOD, learning_rate=2e-4)
    assert not list(findings(pretrained, options, AUGMENT, frozen, FIT, hours=0.1))


def test_an_ap_of_zero_is_named_although_the_loss_falls_and_learning_is_not() -> None:
    watch = LearningWatch(1000)
    watch.check(step=100, loss=1.1, ap50=0.0)
    assert "no object of the validation images is found" in (watch.check(step=500, loss=0.4, ap50=0.0) or "")
    tuned = LearningWatch(1000)  # a fine-tuning, whose loss hardly moves
    tuned.check(step=100, loss=0.200, ap50=0.9)
    assert tuned.check(step=500, loss=0.199, ap50=0.9) is None
    learning = LearningWatch(1000)
    learning.check(step=100, loss=1.1, ap50=0.0)
    assert learning.check(step=500, loss=0.4, ap50=0.2) is None
    unmeasured = LearningWatch(1000)
    unmeasured.check(step=100, loss=1.1, ap50=None)
    assert unmeasured.check(step=500, loss=0.4, ap50=None) is None
