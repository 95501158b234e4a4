"""The reports of a training run, and the observer that receives them."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from retina_edge.evaluation.coco_metrics import Evaluation


@dataclass(frozen=True)
class StepReport:
    """A finished step.

    Attributes:
        epoch: index of the epoch, from 0.
        batch: number of batches done in this epoch.
        batches: number of batches in an epoch.
        step: number of steps done in the run.
        total_steps: number of steps of the run.
        losses: losses of this step by name.
        learning_rate: learning rate of this step.
        images: number of images in the step, over all processes.
        seconds_left: time until the run ends, seconds; None if it ends after a number of steps.
    """

    epoch: int
    batch: int
    batches: int
    step: int
    total_steps: int
    losses: dict[str, float]
    learning_rate: float
    images: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch.

    Attributes:
        epoch: number of epochs done.
        epochs: number of epochs of the run; None if it ends by its time.
        step: number of steps done in the run.
        total_steps: number of steps of the run.
        losses: mean losses of the epoch by name.
        images_per_second: speed of the epoch, over all processes.
        evaluation: evaluation after the epoch; None if the epoch was not evaluated.
        found: number of objects of the validation images that were found; None if the epoch was not evaluated.
        objects: number of objects in the validation images.
        raw: evaluation of the weights without averaging, at the end of a run with EMA; else None.
    """

    epoch: int
    epochs: int | None
    step: int
    total_steps: int
    losses: dict[str, float]
    images_per_second: float
    evaluation: Evaluation | None
    found: int | None
    objects: int
    raw: Evaluation | None = None


class TrainingObserver:
    """A context manager whose methods the trainer calls. Subclasses override them; this class does nothing."""

    def on_step(self, report: StepReport) -> None:
        """Receive a finished step."""

    def on_evaluated(self, done: int, images: int) -> None:
        """Receive the progress of an evaluation; called after each validation image.

        Args:
            done: number of images evaluated so far.
            images: number of images in the validation set.
        """

    def on_epoch(self, report: EpochReport) -> None:
        """Receive a finished epoch."""

    def on_stop(self) -> None:
        """Receive the first Ctrl-C or SIGTERM, at once."""

    def __enter__(self) -> TrainingObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
