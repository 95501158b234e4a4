"""The speed of a training run, measured before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable

from retina_edge.detector import Detector
from retina_edge.model.torch_executor import TorchExecutor
from retina_edge.training.plan import Speed
from retina_edge.training.trainer import Trainer

# Seconds that the steps of a measurement take, and the fewest that count. The first step warms up.
SECONDS, STEPS = 5.0, 2
# If a step takes longer than this, only the estimate is used, seconds.
LONG_STEP = 10.0
# Number of images in the estimate, because normalization over a batch needs two.
SAMPLES = 2
# Number of runs of the estimate. The fastest counts, because other programs can only slow a run down.
RUNS = 2
# Number of images that are evaluated.
IMAGES = 2


def estimate_step(trainer: Trainer) -> float:
    """Return the seconds of a training step on a CPU, estimated from two images.

    Args:
        trainer: trainer with a copy of the model. It is not used afterwards.
    """
    trainer.parallel.train()
    images, targets = trainer.loader.samples(SAMPLES)
    seconds = []
    for _ in range(RUNS):  # the first run warms up
        start = time.perf_counter()
        trainer.train_step(images, targets)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / SAMPLES * trainer.options.batch


def measure_speed(make_trainer: Callable[[], Trainer]) -> Speed:
    """Train a few steps of a run and evaluate a few images, and return the time they take.

    Args:
        make_trainer: function that makes a trainer with a copy of the model. The trainer is not used afterwards.
    """
    trainer = make_trainer()
    # Several processes must go the same way.
    (step,), epoch = trainer.group.of_main([estimate_step(trainer)]), 0.0
    if step < LONG_STEP:
        trainer.sampler.set_position(0, 0)
        start = time.perf_counter()
        batches = iter(trainer.loader)
        trainer.train_step(*next(batches))  # warms up
        epoch = time.perf_counter() - start
        seconds: list[float] = []
        start = last = time.perf_counter()
        for images, targets in batches:
            trainer.train_step(images, targets)
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
            # Several processes must train equally many steps.
            if len(seconds) >= STEPS and (trainer.group.world > 1 or now - start > SECONDS):
                break
        # A step in which nothing else ran on the machine: a plan for a slow moment would be wrong for the whole run.
        step = min(seconds)
        del batches  # ends the processes that load images
    return Speed(step, _evaluation(trainer), epoch)


def _evaluation(trainer: Trainer) -> float:
    """Return the seconds that the evaluation of an image takes."""
    executor = TorchExecutor(trainer.evaluated_model(), trainer.contract, device=trainer.group.device)
    with Detector(executor) as detector:
        frames = [image.read(trainer.contract.bit_depth) for image in trainer.val_data.images[:IMAGES]]
        detector(frames[:1])  # warms up
        start = time.perf_counter()
        detector(frames)
        return (time.perf_counter() - start) / len(frames)
