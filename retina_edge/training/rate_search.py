"""The search for a learning rate by a range test (Smith, arXiv 1506.01186, section 3.3), before the run begins.

The rate rises exponentially from step to step. The loss falls once the rate is large enough to learn, and rises once it
is too large. A tenth of the rate at the least loss is chosen, as in fastai (Howard and Gugger, arXiv 2002.04688): the
least loss is near the largest rate that still learns, and a run needs a smaller one, because it also has to settle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retina_edge.training.trainer import Trainer

# Steps of a test, and the fewest, if there is little time.
STEPS, MIN_STEPS = 100, 40
# The first and the last rate of a test, as multiples of the usual rate.
LOWEST, HIGHEST = 1e-3, 1e2
# Share of a new loss in the smoothed loss. The bias of the first steps is corrected as in Adam (arXiv 1412.6980).
SMOOTHING = 0.1
# A test ends if the smoothed loss is this many times the least one.
DIVERGED = 3.0
# The chosen rate, as a share of the rate at the least loss.
SHARE = 0.1
# Number of steps whose mean loss counts as the loss at the beginning, and the share by which the loss must fall below.
FIRST_STEPS, CLEAR_FALL = 10, 0.05
# The share of the time of a run that a test takes at most, and the largest one if it has the fewest steps.
TIME_SHARE, LARGEST_SHARE = 0.1, 0.5


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test.

    Attributes:
        rates: rate of each step.
        losses: smoothed loss at each step, before its update.

    Examples:
        >>> test = RangeTest(tuple(2.0**step for step in range(12)), (1.0,) * 10 + (0.5, 0.9))
        >>> test.best_rate, round(test.rate, 1)
        (1024.0, 102.4)
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best_rate(self) -> float | None:
        """The rate at the least loss; None if the loss does not fall clearly below that of the first steps."""
        first, rest = self.losses[:FIRST_STEPS], self.losses[FIRST_STEPS:]
        if not rest or min(rest) > (1 - CLEAR_FALL) * sum(first) / len(first):
            return None
        return self.rates[FIRST_STEPS + rest.index(min(rest))]

    @property
    def rate(self) -> float | None:
        """The chosen rate; None if the loss does not fall clearly."""
        return None if self.best_rate is None else SHARE * self.best_rate

    @property
    def reason(self) -> str:
        """The reason of the choice, as text for the user."""
        if self.best_rate is None:
            return f"usual; the loss of a range test did not fall clearly in {len(self.rates)} steps"
        return (
            f"a tenth of {self.best_rate:.2g}, at which the loss of a range test of {len(self.rates)} steps was least"
        )


def rates(usual: float, steps: int) -> list[float]:
    """Return the rates of a test, which rise exponentially.

    Args:
        usual: rate that is usual for such a run.
        steps: number of rates.

    Examples:
        >>> [f"{rate:g}" for rate in rates(0.001, 6)]
        ['1e-06', '1e-05', '0.0001', '0.001', '0.01', '0.1']
    """
    return [usual * LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1)) for step in range(steps)]


def range_test(step: Callable[[float], float], tried: Iterable[float]) -> RangeTest:
    """Train a step with each rate until the loss diverges.

    Args:
        step: function that trains a step with a rate, and returns the loss before the step; NaN or infinity ends the
            test.
        tried: the rates, in rising order.

    Examples:
        >>> losses = iter([8.0, 4.0, 2.0, 60.0, 1.0])
        >>> range_test(lambda _rate: next(losses), (0.1, 0.2, 0.4, 0.8, 1.6)).rates
        (0.1, 0.2, 0.4)
    """
    smoothed, least = 0.0, math.inf
    kept: list[tuple[float, float]] = []
    for number, rate in enumerate(tried, 1):
        loss = step(rate)
        smoothed += SMOOTHING * (loss - smoothed)
        corrected = smoothed / (1 - (1 - SMOOTHING) ** number)
        if not corrected <= DIVERGED * least:  # also if it is NaN
            break
        least = min(least, corrected)
        kept.append((rate, corrected))
    tested, losses = zip(*kept, strict=True) if kept else ((), ())
    return RangeTest(tested, losses)


def steps_for(minutes: float, step_seconds: float) -> int:
    """Return the number of steps of a test in a run with a time; 0 if the time is too short for a test.

    Args:
        minutes: time of the run.
        step_seconds: time of a step, seconds.

    Examples:
        >>> steps_for(30, 0.5), steps_for(10, 1.2), steps_for(2, 1.2), steps_for(2, 1.8)
        (100, 50, 40, 0)
    """
    if MIN_STEPS * step_seconds > LARGEST_SHARE * 60 * minutes:
        return 0
    return max(MIN_STEPS, min(STEPS, int(TIME_SHARE * 60 * minutes / step_seconds)))


def search_rate(trainer: Trainer, steps: int = STEPS) -> RangeTest:
    """Run a range test on the data of a run. The result depends on the seed alone, and is the same in all processes.

    Args:
        trainer: trainer with a copy of the model. It is not used afterwards. Its epoch has at least ``steps`` batches.
        steps: number of steps.
    """
    usual = trainer.options.learning_rate
    trainer.parallel.train()
    trainer.sampler.set_position(0, 0)
    batches = iter(trainer.loader)

    def step(rate: float) -> float:
        trainer.options = dataclasses.replace(trainer.options, learning_rate=rate, schedule="constant", warmup_steps=0)
        loss = sum(trainer.train_step(*next(batches)).values())
        trainer.step += 1
        (failed,) = trainer.group.any_of(not math.isfinite(loss))
        return math.nan if failed else trainer.group.of_main([loss])[0]

    return range_test(step, rates(usual, steps))
