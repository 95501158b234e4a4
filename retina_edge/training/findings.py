"""Remarks on what cannot work in a training run, before it begins or once it shows, with the way out."""

from __future__ import annotations

import math
from collections.abc import Iterator

from retina_edge.data.anchor_fit import AnchorFit
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.model.config import FINEST_STRIDE, GROUPS
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.plan import Facts, learning_rate
from retina_edge.training.train_options import TrainOptions

# A rate is far off if it differs from the usual one by more than this factor.
RATE_FACTOR = 10.0
# The warm-up should take at most this share of the run.
LONGEST_WARMUP = 0.5
# An evaluation should take at most this share of the time.
LONGEST_EVALUATION = 0.3
# Shares of the objects from which on small objects, or objects without an anchor, are worth a remark.
MANY_SMALL, MANY_UNMATCHED = 0.1, 0.1
# Hours from which on a run on a CPU is worth a remark.
LONG_HOURS = 2.0
# Batch normalization needs the statistics of this many images.
FEW_IN_BATCH = 8
# A run with fewer steps than this learns little, from pretrained weights and from random ones.
FEW_STEPS = {True: 100, False: 250}
# An epoch's loss has moved if it is below this share of the first one's. The share of the run after which a loss that
# has not moved, or an AP of 0, is worth a remark, and the fewest steps.
MOVED, FAIR_SHARE, FAIR_STEPS = 0.97, 0.3, 150
# An AP50 below this counts as 0.
NOTHING = 0.005


def findings(
    facts: Facts,
    options: TrainOptions,
    augment: AugmentOptions,
    model: ModelOptions,
    fit: AnchorFit,
    *,
    hours: float | None,
    evaluation: float = 0.0,
) -> Iterator[str]:
    """Yield a sentence about everything that cannot work as planned.

    Args:
        facts: facts about the run.
        options: options of the run.
        augment: augmentation, with both sizes set.
        model: options of the model.
        fit: fit of the model's anchors to the objects.
        hours: estimated time of the run; None if it is unknown.
        evaluation: estimated seconds of an evaluation; 0 if they are unknown.
    """
    samples_of_step = options.batch * facts.world
    in_epoch = options.epoch_samples or facts.data.images
    steps = options.epochs * max(1, in_epoch // samples_of_step)
    if options.warmup_steps > LONGEST_WARMUP * steps:
        yield (
            f"the warm-up of {options.warmup_steps} steps is longer than {LONGEST_WARMUP:.0%} of the run of {steps}, "
            f"so the rate hardly reaches {options.learning_rate:g}: omit --warmup, or train more --epochs"
        )
    if options.minutes and evaluation > LONGEST_EVALUATION * 60 * options.minutes:
        yield (
            f"an evaluation takes about {evaluation / 60:.0f} min of a run of {options.minutes:g} min: validate on "
            "fewer images, or give more --minutes"
        )
    # With fewer images than samples in a step, images repeat, so none is left out.
    left_out = in_epoch % samples_of_step if not options.epoch_samples and in_epoch >= samples_of_step else 0
    if left_out and in_epoch < 20 * samples_of_step:
        yield (
            f"each epoch leaves out {left_out} of {in_epoch} images, because a batch has {samples_of_step}: set "
            "--epoch-samples to a multiple of the batch, or a smaller --batch"
        )
    if steps < (few := FEW_STEPS[facts.pretrained]):
        weights = "pretrained" if facts.pretrained else "random"
        longer = "--minutes" if options.minutes else "--epochs"
        yield (
            f"{steps} steps are few; from {weights} weights, a network learns little in fewer than {few}: give more "
            f"{longer}"
        )
    usual, _ = learning_rate(options.optimizer, samples_of_step, pretrained=facts.pretrained)
    if not usual / RATE_FACTOR <= options.learning_rate <= usual * RATE_FACTOR:
        yield (
            f"the rate of {options.learning_rate:g} is far from the usual {usual:g} for {options.optimizer} and "
            f"batches of {samples_of_step}: omit --lr to take the usual one"
        )
    if model.head_norm == "group" and model.fpn_channels == GROUPS:
        yield (
            f"group normalization makes {GROUPS} groups, so each of the {GROUPS} channels is normalized alone, which "
            "removes how strong it is, and leaves nothing on a level of one pixel: use --fpn-channels 64 or more, or "
            "--head-norm batch"
        )
    if model.head_norm == "batch" and samples_of_step < FEW_IN_BATCH:
        yield (
            f"batch normalization in the heads needs the statistics of {FEW_IN_BATCH} images or more, and a step has "
            f"{samples_of_step}: use a larger --batch, or --head-norm group"
        )
    if model.backbone_norm == "frozen" and not facts.pretrained:
        yield (
            "a backbone with fixed statistics and random weights has no normalization: use --backbone-norm batch, or "
            "pretrained weights"
        )
    if absent := [name for name, boxes in facts.data.boxes.items() if not boxes]:
        yield f"no object to learn from has the class {', '.join(absent[:10])}, so it will never be found"
    if fit.under_stride > MANY_SMALL:
        yield (
            f"{fit.under_stride:.0%} of the objects have a side shorter than {FINEST_STRIDE} pixels in the input, the "
            "stride of the finest level: use a larger --input, or cut the images into tiles"
        )
    if fit.recall < 1 - MANY_UNMATCHED:
        yield (
            f"no anchor matches {1 - fit.recall:.0%} of the objects: use --anchors auto, or a larger --input if the "
            "anchors are chosen already; retina-edge anchors shows the sizes of these objects"
        )
    assert augment.size is not None
    assert augment.input_size is not None
    if augment.orientation == "dihedral" and augment.size[0] != augment.size[1]:
        yield (
            f"a crop of {augment.size[0]}x{augment.size[1]} has no quarter turns, so dihedral is only half turns and "
            "flips: use a square --crop"
        )
    large = facts.data.sizes[2] * facts.data.scale_to(augment.input_size)
    if large > min(augment.size):
        yield (
            f"large objects have {large:.0f} pixels in the input, more than the crop of {augment.size[0]}x"
            f"{augment.size[1]}, so the network sees only parts of them: use a larger --crop"
        )
    if hours is not None and hours > LONG_HOURS and not options.minutes:
        network = "from random weights " if not facts.pretrained else ""
        yield (
            f"this run {network}takes about {hours:.0f} hours on this "
            f"{'CPU' if facts.device == 'cpu' else 'GPU'}: --minutes N fits the run into a time, and without options "
            "for the model a network that suits the device is chosen"
        )


class LearningWatch:
    """Notices, once, that a run learns nothing.

    Args:
        total_steps: number of steps of the run.
        resumed: True if the first losses of the run are unknown, so that only the AP tells.

    Examples:
        >>> watch = LearningWatch(total_steps=1000)
        >>> watch.check(step=100, loss=1.13, ap50=0.0)
        >>> watch.check(step=500, loss=1.13, ap50=0.0).partition(":")[0]
        'after 500 steps the loss is still 1.130'
    """

    def __init__(self, total_steps: int, *, resumed: bool = False) -> None:
        self._total, self._resumed, self._first, self._told, self._found = total_steps, resumed, math.nan, False, False

    def check(self, *, step: int, loss: float, ap50: float | None) -> str | None:
        """Return a sentence for the user if the run learns nothing, at most once; else None.

        Args:
            step: number of steps trained.
            loss: mean loss of the last epoch.
            ap50: AP at an IoU of 0.5 on the validation images; None if it was not measured.
        """
        first, self._first = self._first, loss if math.isnan(self._first) else self._first
        nothing_found = ap50 is not None and ap50 <= NOTHING
        self._found |= ap50 is not None and not nothing_found
        if self._told or step < FAIR_STEPS or step < FAIR_SHARE * self._total:
            return None
        still = loss > MOVED * first and not self._resumed and (nothing_found or not self._found)
        if not still and not nothing_found:
            return None
        self._told = True
        sign = f"the loss is still {loss:.3f}" if still else "no object of the validation images is found"
        return (
            f"after {step} steps {sign}: likely causes, in this order, are a rate that is too low or "
            "too high (--lr), too few steps, boxes that are not where the objects are (look at a few images with their "
            "boxes), and objects that are too small for the input (--input)"
        )
