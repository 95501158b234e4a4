"""The display of a training run: a progress bar on a terminal, lines at intervals elsewhere, and a line an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from retina_edge.system.console import Console
from retina_edge.training.findings import LearningWatch
from retina_edge.training.observer import EpochReport, StepReport, TrainingObserver

# Seconds between two lines where there is no terminal.
INTERVAL = 30.0
# The first estimate of the time comes after this many steps or seconds, whichever is later; the first step warms up.
FIRST_STEPS, FIRST_SECONDS = 5, 10.0
# Share of a new value in the running mean of the seconds of a step.
SMOOTHING = 0.1


class TrainingProgress(TrainingObserver):
    """An observer that shows the progress of the steps, and prints a line for each epoch.

    Args:
        console: console to print to.
        clock: function that returns the time in seconds.

    Examples:
        >>> progress = TrainingProgress(Console())
        >>> progress.on_epoch(EpochReport(1, 12, 50, 600, {"classification": 0.51}, 80.0, None, None, objects=9))
        epoch 1/12  classification 0.510  80.0 images/s
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("starting", total=None)
        self._shown = self._last = clock()
        self._counted, self._step_seconds = 0, 0.0
        self._first: float | None = self._last  # start of the run; None once the first estimate is printed
        self._watch: LearningWatch | None = None
        self._metrics: dict[str, float] = {}
        self._resumed = False

    def on_step(self, report: StepReport) -> None:
        now = self._clock()
        self._resumed |= not self._counted and report.step > 1
        self._measure(report, now - self._last)
        self._last = now
        left, steps = report.seconds_left, f"step {report.step}"  # the number of steps of a timed run is not known
        if left is None:
            left = (report.total_steps - report.step) * self._step_seconds
            steps = f"{steps}/{report.total_steps}"
        text = "  ".join(
            (
                steps,
                f"epoch {report.epoch + 1}",
                *(f"{name} {value:.3f}" for name, value in report.losses.items()),
                f"rate {report.learning_rate:.2g}",
                f"{report.images / max(1e-9, self._step_seconds):.1f} images/s",
                f"{duration(left)} left",
            )
        )
        self._progress.update(self._task, description=text, completed=report.step, total=report.total_steps)
        if not self._console.is_terminal and now - self._shown >= INTERVAL:
            self._print(text)
            self._shown = now

    def on_evaluated(self, done: int, images: int) -> None:
        self._progress.update(self._task, description="evaluating", completed=done, total=images)
        self._last = now = self._clock()
        if not self._console.is_terminal and now - self._shown >= INTERVAL:
            self._print(f"evaluated {done}/{images} images")
            self._shown = now

    def on_epoch(self, report: EpochReport) -> None:
        parts = [f"{name} {value:.3f}" for name, value in report.losses.items()]
        parts.append(f"{report.images_per_second:.1f} images/s")
        if report.evaluation:
            for name in ("AP", "AP50", "AP75"):
                value = report.evaluation.metrics[name]
                change = f" ({value - self._metrics[name]:+.3f})" if name in self._metrics else ""
                parts.append(f"{name} {value:.3f}{change}")
                self._metrics[name] = value
            if report.found is not None:
                parts.append(f"found {report.found} of {report.objects} objects")
        if report.raw:
            parts.append(f"AP {report.raw.metrics['AP']:.3f} without averaging the weights")
        total = f"/{report.epochs}" if report.epochs else ""
        self._print(f"epoch {report.epoch}{total}  {'  '.join(parts)}")
        self._watch = self._watch or LearningWatch(report.total_steps, resumed=self._resumed)
        ap50 = report.evaluation.metrics["AP50"] if report.evaluation else None
        if warning := self._watch.check(step=report.step, loss=sum(report.losses.values()), ap50=ap50):
            self._print(f"warning: {warning}")
        self._last = self._clock()

    def on_stop(self) -> None:
        self._print("stopping after this step; again to stop now")

    def _measure(self, report: StepReport, seconds: float) -> None:
        """Update the mean seconds of a step, and print the first estimate of the time."""
        share = 1.0 if self._counted < 2 else SMOOTHING  # the first step warms up
        self._step_seconds += share * (seconds - self._step_seconds)
        self._counted += 1
        if self._first is not None and self._counted >= FIRST_STEPS and self._clock() - self._first >= FIRST_SECONDS:
            self._first = None
            epoch, rest = report.batches, report.total_steps - report.step
            epoch_time = f"an epoch takes about {duration(epoch * self._step_seconds)}"
            if report.seconds_left is None:
                rest_time = f"the rest of the run {duration(rest * self._step_seconds)}, without evaluations"
            else:
                rest_time = f"the run ends in {duration(report.seconds_left)}"
            self._print(f"{self._step_seconds:.2g} s a step: {epoch_time}, {rest_time}")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> TrainingProgress:
        self._first = self._last = self._shown = self._clock()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def duration(seconds: float) -> str:
    """Return a duration in the unit that suits it.

    Examples:
        >>> duration(42.0), duration(700.0), duration(50000.0)
        ('42 s', '12 min', '13.9 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
