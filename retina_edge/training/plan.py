"""The options of a training run, chosen from the data, the device and the time, where the user gave none.

Each choice comes with its reason. A chosen network is small on a CPU, and torchvision's on a GPU. AdamW, GIoU and group
normalization in the heads are those of torchvision's second RetinaNet (github.com/pytorch/vision, pull request 5444).
The cosine schedule, the averaged weights and the larger rate for random weights are those of the sample model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.data.anchor_fit import DEFAULT_RATIOS, MATCH_IOU, suggest_anchors, without_idle_ratios
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.summary import DataSummary
from retina_edge.model.config import GROUPS
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.train_options import TrainOptions

CPU, CUDA = "cpu", "cuda"
# Every stride of the network divides this number.
MULTIPLE = 32
# The largest side of a chosen input, pixels.
MAX_SIDE = {CPU: 640, CUDA: 1024}
# Objects up to this size fit the pyramid without stage C5, pixels.
LARGEST_FOR_C4 = 256.0
# The smallest side of the chosen crops on a CPU, pixels. Small crops give more steps in the same time.
MIN_CROP = 128
# The crop is this many times as large as a large object, so that most objects are seen whole.
CROP_FACTOR = 1.6
# Samples of a run, at least, and passes over the data set, at least. Random weights need more.
SAMPLES, PASSES = {True: 6_000, False: 12_000}, {True: 12, False: 24}
# Minutes that a run on a CPU takes at most, if the user gave no time and no number of epochs.
CPU_MINUTES = 30.0
# Evaluations of a run over a small data set, and the largest share of the time that they may take.
EVALUATIONS, PLANNED_EVALUATION_SHARE = 8, 0.15
# The warm-up takes this share of the steps, and the average of the weights looks back over this one.
WARMUP_SHARE, MAX_WARMUP, EMA_SHARE, MAX_EMA = 0.05, 500, 0.05, 0.9998

# Options by the names of the fields of ModelOptions, TrainOptions and AugmentOptions.
Given = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """An option that was chosen, as on the command line, and the reason.

    Examples:
        >>> str(Choice("--batch", "8", "usual on a CPU"))
        '--batch 8: usual on a CPU'
    """

    option: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{' '.join(filter(None, (self.option, self.value)))}: {self.reason}"


@dataclass(frozen=True)
class Facts:
    """The facts that decide a plan.

    Attributes:
        data: numbers of the training set.
        device: ``cpu`` or ``cuda``.
        cores: number of usable cores.
        pretrained: True if the backbone starts from ImageNet weights, or the model from a checkpoint.
        world: number of processes that train together.
    """

    data: DataSummary
    device: str
    cores: int
    pretrained: bool
    world: int = 1


@dataclass(frozen=True)
class Speed:
    """The measured speed of a run, seconds.

    Attributes:
        step: a training step.
        image: the evaluation of an image.
        epoch: the start of an epoch, which starts the processes that load images.
    """

    step: float
    image: float
    epoch: float


class Chooser:
    """Collects choices: the given value of an option is kept, another is chosen with a reason.

    Args:
        given: options that the user gave.

    Attributes:
        values: all options so far, by name.
        choices: the choices that were made.

    Examples:
        >>> chooser = Chooser({"batch": 4})
        >>> chooser.choose("batch", 8, "--batch", "usual"), chooser.choose("workers", 1, "--workers", "two cores")
        (4, 1)
        >>> [str(choice) for choice in chooser.choices]
        ['--workers 1: two cores']
    """

    def __init__(self, given: Given) -> None:
        self.values = dict(given)
        self.choices: list[Choice] = []

    def choose(self, name: str, value: Any, option: str, reason: str, *, text: str | None = None) -> Any:
        """Return the value of an option.

        Args:
            name: name of the option's field.
            value: value to choose if the option was not given.
            option: the option on the command line.
            reason: reason of the choice, for the user.
            text: the value on the command line; by default the value as text.
        """
        if name not in self.values:
            self.values[name] = value
            self.choices.append(Choice(option, str(value) if text is None else text, reason))
        return self.values[name]


def choose_input_size(data: DataSummary, device: str) -> tuple[tuple[int, int], str]:
    """Choose the (height, width) of the network's input, pixels; return it with the reason.

    The size is that of the images, rounded up to multiples of 32, unless the larger side is above the device's limit.

    Examples:
        >>> data = DataSummary(10, 0, (1080, 1920), {"car": 9}, (30.0, 60.0, 90.0))
        >>> choose_input_size(data, "cpu")
        ((384, 640), 'the images are typically 1920x1080 (width x height), and a side has at most 640 pixels on a CPU')
    """
    height, width = data.image_size
    limit = MAX_SIDE[device]
    factor = min(1.0, limit / max(height, width))
    size = tuple(max(2, math.ceil(side * factor / MULTIPLE)) * MULTIPLE for side in (height, width))
    reason = f"the images are typically {width}x{height} (width x height)"
    if factor < 1:
        reason += f", and a side has at most {limit} pixels on a {'CPU' if device == CPU else 'GPU'}"
    return (size[0], size[1]), reason


def choose_levels(boxes: npt.NDArray[np.float32], device: str) -> tuple[int, str]:
    """Choose the last stage of the backbone that feeds the pyramid; return it with the reason.

    Args:
        boxes: boxes of the objects, float32 [N, 4], xyxy, input pixels.
        device: ``cpu`` or ``cuda``.
    """
    largest = float(np.percentile(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)), 98))
    few = device == CPU and largest <= LARGEST_FOR_C4
    return 4 if few else 5, f"the largest objects have about {largest:.0f} pixels in the input"


def first_anchors(levels: int) -> tuple[float, ...]:
    """Return the anchor sizes that the search for anchors begins with.

    Examples:
        >>> first_anchors(4)
        (16.0, 32.0, 64.0, 128.0)
    """
    return tuple(16.0 * 2**level for level in range(levels))


def plan_model(
    given: Given, facts: Facts, boxes: Callable[[tuple[int, int]], npt.NDArray[np.float32]]
) -> tuple[ModelOptions, list[Choice]]:
    """Choose the options of the model.

    Args:
        given: fields of ``ModelOptions`` that the user gave.
        facts: facts about the run.
        boxes: function of an input size to the boxes in its coordinates, float32 [N, 4], xyxy.
    """
    chooser = Chooser(given)
    small = facts.device == CPU
    size, reason = choose_input_size(facts.data, facts.device)
    size = chooser.choose("input_size", size, "--input", reason, text=f"{size[0]}x{size[1]}")
    why = "a small network, for a CPU" if small else "usual on a GPU"
    chooser.choose("backbone", "resnet18" if small else "resnet50", "--backbone", why)
    in_input = boxes(size)
    levels, reason = choose_levels(in_input, facts.device)
    if chooser.values.get("anchor_sizes"):
        levels, reason = len(chooser.values["anchor_sizes"]), "one level for each of the given anchors"
    levels = chooser.choose("backbone_levels", levels, "--backbone-levels", reason)
    channels = chooser.choose("fpn_channels", 64 if small else 256, "--fpn-channels", why)
    chooser.choose("head_depth", 2 if small else 4, "--head-depth", why)
    if channels == GROUPS:
        reason = f"group normalization would normalize each of the {GROUPS} channels alone"
        chooser.choose("head_norm", "batch", "--head-norm", reason)
    chooser.choose("head_norm", "group", "--head-norm", "heads learn faster with it, in batches of any size")
    chooser.choose("box_loss", "giou", "--box-loss", "boxes fit better than with L1")
    if chooser.values.get("anchor_sizes") is None:
        chooser.values.pop("anchor_sizes", None)
        start = first_anchors(levels)
        if "aspect_ratios" in chooser.values:
            fit = suggest_anchors(in_input, size, start, chooser.values["aspect_ratios"], keep_ratios=True)
        else:
            fit = without_idle_ratios(suggest_anchors(in_input, size, start, DEFAULT_RATIOS), in_input, size)
        text = " ".join(f"{value:g}" for value in fit.anchor_sizes)
        matched = f"they match {fit.recall:.1%} of the objects at IoU {MATCH_IOU}"
        chooser.choose("anchor_sizes", fit.anchor_sizes, "--anchors", matched, text=text)
        text = " ".join(f"{value:g}" for value in fit.aspect_ratios)
        chooser.choose("aspect_ratios", fit.aspect_ratios, "--aspect-ratios", "they fit the objects", text=text)
    options = ModelOptions(**chooser.values)
    options.check_groups(size)  # an evaluation may take one image at a time
    return options, chooser.choices


def plan_augmentation(given: Given, facts: Facts, input_size: tuple[int, int]) -> tuple[AugmentOptions, list[Choice]]:
    """Choose the augmentation.

    Args:
        given: fields of ``AugmentOptions`` that the user gave.
        facts: facts about the run.
        input_size: (height, width) of the network's input, pixels.
    """
    chooser = Chooser(given)
    size, reason = input_size, "the whole input, which a GPU has the speed for"
    if facts.device == CPU:
        large = facts.data.sizes[2] * facts.data.scale_to(input_size)
        side = math.ceil(CROP_FACTOR * large / MULTIPLE) * MULTIPLE
        size = (min(max(side, MIN_CROP), input_size[0]), min(max(side, MIN_CROP), input_size[1]))
        reason = "large enough for most objects; small crops are fast on a CPU"
    chooser.choose("size", size, "--crop", reason, text=f"{size[0]}x{size[1]}")
    return AugmentOptions(**chooser.values), chooser.choices


def plan_steps(given: Given, facts: Facts) -> tuple[TrainOptions, list[Choice]]:
    """Choose the options of a step: batch, optimizer, rate. The length of the run is open; see ``plan_length``.

    Args:
        given: fields of ``TrainOptions`` that the user gave.
        facts: facts about the run.
    """
    chooser = Chooser(given)
    small = facts.device == CPU
    batch = chooser.choose("batch", 8 if small else 16, "--batch", f"usual on a {'CPU' if small else 'GPU'}")
    optimizer = chooser.choose("optimizer", "adamw", "--optimizer", "it needs less tuning than SGD")
    rate, reason = learning_rate(optimizer, batch * facts.world, pretrained=facts.pretrained)
    chooser.choose("learning_rate", rate, "--lr", reason, text=f"{rate:g}")
    decay = 1e-4 if optimizer == "sgd" else 0.05
    chooser.choose("weight_decay", decay, "--weight-decay", f"usual with {optimizer}", text=f"{decay:g}")
    chooser.choose("schedule", "cosine", "--schedule", "the rate falls to zero at the end of the run")
    # On a CPU, the processes that load images take time from the training.
    workers = max(1, facts.cores // 4) if small else max(1, min(8, (facts.cores - 1) // facts.world))
    chooser.choose("workers", workers, "--workers", f"{facts.cores} cores")
    return TrainOptions(**chooser.values), chooser.choices


def plan_length(
    given: Given,
    facts: Facts,
    options: TrainOptions,
    *,
    val_images: int,
    speed: Speed | None,
    elapsed: float = 0.0,
) -> tuple[TrainOptions, list[Choice]]:
    """Choose the length of the run, and everything that depends on the number of steps.

    Args:
        given: fields of ``TrainOptions`` that the user gave.
        facts: facts about the run.
        options: result of ``plan_steps``.
        val_images: number of validation images.
        speed: the measured speed; None if it was not measured, so that no time can be kept.
        elapsed: seconds of the run's time that have passed already.
    """
    chooser = Chooser(given)
    samples_of_step = options.batch * facts.world
    if "epochs" not in given:
        epochs, steps, reason = _usual_length(facts, samples_of_step)
        too_long = facts.device == CPU and speed is not None and steps * speed.step > 60 * CPU_MINUTES
        if too_long:
            text = f"{CPU_MINUTES:g}"
            chooser.choose("minutes", CPU_MINUTES, "--minutes", f"{reason}, would take longer on this CPU", text=text)
        minutes = chooser.values.get("minutes")
        if minutes and speed is not None:
            last = 1 if given.get("ema") == 0 else 2  # with EMA, both weights are evaluated at the end
            epochs, steps = _fit(speed, 60 * minutes - elapsed, val_images, last=last)
            reason = f"about; the time decides, which is enough for about {steps} steps of {speed.step:.2g} s"
        if "epoch_samples" in given:  # 0 for each image once
            in_epoch = given["epoch_samples"] or facts.data.images
            epochs = max(1, round(steps / max(1, in_epoch // samples_of_step)))
        chooser.choose("epochs", epochs, "--epochs", reason)
        samples = steps // epochs * samples_of_step
        reason = f"{steps // epochs} steps from one evaluation to the next"
        chooser.choose("epoch_samples", samples, "--epoch-samples", reason)
    else:
        in_epoch = chooser.values.get("epoch_samples") or facts.data.images
        steps = given["epochs"] * max(1, in_epoch // samples_of_step)
    warmup = min(MAX_WARMUP, max(1, round(WARMUP_SHARE * steps)))
    chooser.choose("warmup_steps", warmup, "--warmup", f"{WARMUP_SHARE:.0%} of {steps} steps, {MAX_WARMUP} at most")
    decay = min(MAX_EMA, round(1 - 1 / max(2.0, EMA_SHARE * steps), 4))
    chooser.choose("ema", decay, "--ema", f"an average over {EMA_SHARE:.0%} of the steps")
    values = {**dataclasses.asdict(options), **chooser.values}
    return TrainOptions(**values), chooser.choices


def learning_rate(optimizer: str, batch: int, *, pretrained: bool) -> tuple[float, str]:
    """Return the usual rate for a batch over all processes, and its reason.

    The rate grows with the batch for SGD (Goyal et al., arXiv 1706.02677), and with its root for AdamW (Malladi et al.,
    arXiv 2205.10287).

    Examples:
        >>> learning_rate("adamw", 32, pretrained=False)
        (0.002, '0.001 for random weights, scaled to 32 images')
    """
    if optimizer == "sgd":
        return float(f"{0.01 * batch / 16:.2g}"), f"the paper's 0.01 for 16 images, scaled to {batch}"
    usual, size, weights = (2e-4, 16, "pretrained") if pretrained else (1e-3, 8, "random")
    return float(f"{usual * math.sqrt(batch / size):.2g}"), f"{usual:g} for {weights} weights, scaled to {batch} images"


def _usual_length(facts: Facts, samples_of_step: int) -> tuple[int, int, str]:
    """Return epochs, steps and the reason, if there is no limit of time."""
    samples = max(SAMPLES[facts.pretrained], PASSES[facts.pretrained] * facts.data.images)
    passes = samples / facts.data.images
    # Over few images, an epoch is several passes, because an evaluation after each pass would take too long.
    epochs = EVALUATIONS if passes > 3 * EVALUATIONS else round(passes)
    steps = max(epochs, samples // samples_of_step)
    return epochs, steps, f"{samples} samples, usual for {'pretrained' if facts.pretrained else 'random'} weights"


def _fit(speed: Speed, seconds: float, val_images: int, *, last: int) -> tuple[int, int]:
    """Return the epochs and the steps that fill a time, with ``last`` evaluations at the end; at least one of each."""
    evaluation = speed.epoch + speed.image * val_images
    epochs = max(1, min(EVALUATIONS, int(PLANNED_EVALUATION_SHARE * seconds / evaluation)))
    more = (last - 1) * speed.image * val_images
    steps = max(epochs, int((seconds - epochs * evaluation - more) / speed.step))
    return epochs, steps
