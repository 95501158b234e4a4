"""The options that are chosen for a training run fit the data, the device and the time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import ContractError
from retina_edge.data.summary import DataSummary
from retina_edge.model.retinanet import RetinaNet
from retina_edge.training.plan import (
    CPU,
    CPU_MINUTES,
    CUDA,
    Facts,
    Speed,
    choose_input_size,
    plan_augmentation,
    plan_length,
    plan_model,
    plan_steps,
)
from retina_edge.training.train_options import TrainOptions

# 18 images of 640x480 with shapes, as in examples/first_hour.
SHAPES = DataSummary(18, 0, (480, 640), {"disc": 50, "square": 40, "triangle": 40}, (13.0, 27.0, 90.0))
COCO = DataSummary(118_287, 1021, (480, 640), {"person": 262_465}, (8.0, 60.0, 400.0))


def facts(data: DataSummary = SHAPES, **changes: Any) -> Facts:
    return dataclasses.replace(Facts(data, CPU, cores=2, pretrained=False), **changes)


def boxes(*sizes: float) -> npt.NDArray[np.float32]:
    """Return 20 boxes of each size, at different places."""
    return np.array([[7 * i, 5 * i, 7 * i + size, 5 * i + size] for size in sizes for i in range(20)], np.float32)


@pytest.mark.parametrize(
    ("image", "device", "expected"),
    [
        ((480, 640), CPU, (480, 640)),
        ((1080, 1920), CPU, (384, 640)),
        ((1080, 1920), CUDA, (576, 1024)),
        ((400, 400), CPU, (416, 416)),  # never smaller than the images without need
        ((4000, 3000), CUDA, (1024, 768)),
        ((20, 300), CPU, (64, 320)),
    ],
)
def test_the_input_is_as_large_as_the_images_within_the_limit(
    image: tuple[int, int], device: str, expected: tuple[int, int]
) -> None:
    size, reason = choose_input_size(dataclasses.replace(SHAPES, image_size=image), device)
    assert size == expected
    assert f"{image[1]}x{image[0]}" in reason


def test_a_cpu_gets_a_small_network_and_a_gpu_a_large_one() -> None:
    small, choices = plan_model({}, facts(), lambda _size: boxes(14, 30, 90))
    assert (small.backbone, small.backbone_levels, small.fpn_channels, small.head_depth) == ("resnet18", 4, 64, 2)
    assert small.anchor_sizes is not None
    assert small.anchor_sizes[0] <= 16
    assert 1.0 in small.aspect_ratios
    assert all(choice.reason for choice in choices)
    large, _ = plan_model({}, facts(device=CUDA), lambda _size: boxes(40, 300))
    assert (large.backbone, large.backbone_levels, large.fpn_channels, large.head_depth) == ("resnet50", 5, 256, 4)


def test_given_options_are_kept_and_not_reported() -> None:
    given = {"backbone": "resnet34", "input_size": (320, 320), "anchor_sizes": (20.0, 40.0, 80.0), "backbone_levels": 3}
    model, choices = plan_model(given, facts(), lambda _size: boxes(30))
    assert {name: getattr(model, name) for name in given} == given
    assert model.aspect_ratios == (0.5, 1.0, 2.0)  # those of the paper, as with given sizes before
    assert not {"--backbone", "--input", "--anchors", "--backbone-levels"} & {choice.option for choice in choices}
    steps, choices = plan_steps({"learning_rate": 0.5, "batch": 3}, facts())
    assert (steps.learning_rate, steps.batch) == (0.5, 3)
    assert not {"--lr", "--batch"} & {choice.option for choice in choices}


def test_group_normalization_needs_more_than_one_value_in_a_group() -> None:
    given = {"fpn_channels": 32, "input_size": (128, 128), "backbone_levels": 5, "head_norm": "group"}
    with pytest.raises(ContractError, match=r"^head_norm: expected more than 32 channels .* channels and 128x128"):
        plan_model(given, facts(), lambda _size: boxes(30))
    del given["head_norm"]
    model, choices = plan_model(given, facts(), lambda _size: boxes(30))
    assert model.head_norm == "batch"
    assert [choice.reason for choice in choices if choice.option == "--head-norm"] == [
        "group normalization would normalize each of the 32 channels alone"
    ]
    given["head_norm"] = "group"
    for change in ({"fpn_channels": 64}, {"input_size": (128, 160)}, {"backbone_levels": 4}, {"head_norm": "batch"}):
        model, _ = plan_model({**given, **change}, facts(), lambda _size: boxes(30))
        RetinaNet(model.config(num_classes=1)).pyramid(model.input_size)  # runs on one image


def test_crops_on_a_cpu_hold_most_objects() -> None:
    augment, _ = plan_augmentation({}, facts(), (480, 640))
    assert augment.size is not None
    assert 90 < augment.size[0] == augment.size[1] <= 320
    augment, _ = plan_augmentation({}, facts(device=CUDA), (480, 640))
    assert augment.size == (480, 640)
    tiny = dataclasses.replace(SHAPES, image_size=(96, 64))
    augment, _ = plan_augmentation({}, facts(tiny), (96, 64))
    assert augment.size == (96, 64)  # never larger than the input


@pytest.mark.parametrize(
    ("given", "changes", "rate"),
    [
        ({}, {}, 0.001),
        ({"batch": 32}, {}, 0.002),
        ({}, {"device": CUDA, "pretrained": True}, 0.0002),
        ({"batch": 16}, {"device": CUDA, "pretrained": True, "world": 4}, 0.0004),
        ({"optimizer": "sgd", "batch": 16}, {}, 0.01),
        ({"optimizer": "sgd", "batch": 8}, {"world": 8}, 0.04),
    ],
)
def test_the_rate_fits_optimizer_batch_and_weights(given: dict[str, Any], changes: dict[str, Any], rate: float) -> None:
    options, _ = plan_steps(given, facts(**changes))
    assert options.learning_rate == pytest.approx(rate, rel=0.03)


def planned(given: dict[str, Any], known: Facts, speed: Speed | None = None, val_images: int = 6) -> TrainOptions:
    steps, _ = plan_steps(given, known)
    options, choices = plan_length(given, known, steps, val_images=val_images, speed=speed)
    assert all(choice.reason for choice in choices)
    return options


def total_steps(options: TrainOptions, data: DataSummary) -> int:
    return options.epochs * max(1, (options.epoch_samples or data.images) // options.batch)


@pytest.mark.parametrize("minutes", [1.0, 8.0, 60.0])
@pytest.mark.parametrize("step", [0.05, 0.4, 3.0])
def test_the_length_fills_the_time(minutes: float, step: float) -> None:
    speed = Speed(step=step, image=0.1, epoch=1.0)
    options = planned({"minutes": minutes}, facts(), speed)
    steps = total_steps(options, SHAPES)
    seconds = steps * step + options.epochs * (speed.epoch + 6 * speed.image) + 6 * speed.image  # two at the end
    assert 0.75 * 60 * minutes < seconds <= 60.001 * minutes
    assert options.warmup_steps <= max(1, 0.1 * steps)
    assert 1 / (1 - options.ema) < max(2.1, 0.1 * steps)
    assert options.minutes == minutes


def test_a_time_that_is_too_short_still_gives_a_step() -> None:
    options = planned({"minutes": 0.01}, facts(), Speed(step=20.0, image=5.0, epoch=3.0))
    assert total_steps(options, SHAPES) == 1


def test_without_a_time_the_length_follows_the_data() -> None:
    few = planned({}, facts(device=CUDA))
    assert total_steps(few, SHAPES) * few.batch == pytest.approx(12_000, rel=0.05)
    assert few.epochs == 8  # an evaluation after each pass over 18 images would take most of the time
    many = planned({}, facts(COCO, device=CUDA, pretrained=True))
    assert many.epochs == 12  # as in the paper
    assert total_steps(many, COCO) * many.batch == pytest.approx(12 * COCO.images, rel=0.01)
    assert many.warmup_steps == 500


@pytest.mark.parametrize("given", [{}, {"minutes": 8.0}])
def test_each_image_once_in_an_epoch_changes_the_epochs_and_not_the_length(given: dict[str, Any]) -> None:
    speed = Speed(step=0.4, image=0.1, epoch=1.0) if given else None
    usual = planned(given, facts(device=CUDA), speed)
    options = planned({**given, "epoch_samples": 0}, facts(device=CUDA), speed)
    assert options.epoch_samples == 0
    assert total_steps(options, SHAPES) == pytest.approx(total_steps(usual, SHAPES), rel=0.01)
    assert (options.warmup_steps, options.ema) == (usual.warmup_steps, usual.ema)


def test_a_cpu_gets_a_time_if_the_usual_length_would_take_longer() -> None:
    options = planned({}, facts(COCO), Speed(step=0.5, image=0.1, epoch=1.0), val_images=5000)
    assert options.minutes == CPU_MINUTES
    quick = planned({}, facts(), Speed(step=0.1, image=0.01, epoch=0.1))
    assert quick.minutes == 0


def test_a_given_number_of_epochs_is_kept_with_each_image_once() -> None:
    options = planned({"epochs": 5}, facts())
    assert (options.epochs, options.epoch_samples, options.minutes) == (5, 0, 0)
