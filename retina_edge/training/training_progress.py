"""The display of a training run: a progress bar for the current epoch, and a line for each finished epoch."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retina_edge.evaluation.coco_metrics import Evaluation


class TrainingObserver:
    """A context manager whose methods the trainer calls. Subclasses override them; this class does nothing."""

    def on_step(self, epoch: int, batch: int, batches: int, losses: dict[str, float]) -> None:
        """Receive the losses of a step; called after each step.

        Args:
            epoch: index of the epoch, from 0.
            batch: number of batches done in this epoch.
            batches: number of batches in an epoch.
            losses: losses of this step by name.
        """

    def on_evaluated(self, done: int, images: int) -> None:
        """Receive the progress of an evaluation; called after each validation image.

        Args:
            done: number of images evaluated so far.
            images: number of images in the validation set.
        """

    def on_epoch(self, epoch: int, losses: dict[str, float], result: Evaluation | None) -> None:
        """Receive the results of an epoch; called after each epoch.

        Args:
            epoch: number of epochs done.
            losses: mean losses of the epoch, and ``images_per_second``.
            result: evaluation after the epoch; None if the epoch was not evaluated.
        """

    def __enter__(self) -> TrainingObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class TrainingProgress(TrainingObserver):
    """An observer that shows a progress bar and prints a line for each epoch.

    Args:
        console: console to print to.
        epochs: number of epochs of the run.

    Examples:
        >>> progress = TrainingProgress(Console(), epochs=12)
        >>> progress.on_epoch(1, {"classification": 0.51, "images_per_second": 80.0}, None)
        epoch 1/12  classification 0.510  80.0 images/s
    """

    def __init__(self, console: Console, epochs: int) -> None:
        self._console, self._epochs = console, epochs
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("epoch 1", total=None)

    def on_step(self, epoch: int, batch: int, batches: int, losses: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        description = f"epoch {epoch + 1}/{self._epochs}  {shown}"
        self._progress.update(self._task, description=description, completed=batch, total=batches)

    def on_evaluated(self, done: int, images: int) -> None:
        self._progress.update(self._task, description="evaluating", completed=done, total=images)

    def on_epoch(self, epoch: int, losses: dict[str, float], result: Evaluation | None) -> None:
        parts = [f"{name} {value:.3f}" for name, value in losses.items() if name != "images_per_second"]
        parts.append(f"{losses['images_per_second']:.1f} images/s")
        if result:
            parts += [f"{name} {result.metrics[name]:.4f}" for name in ("AP", "AP50", "AP75")]
        self._console.print(f"epoch {epoch}/{self._epochs}  {'  '.join(parts)}", highlight=False, soft_wrap=True)

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
