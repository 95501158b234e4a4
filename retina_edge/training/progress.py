"""What a person sees of a run: a bar for the epoch, a line for each finished one."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retina_edge.evaluation import Evaluation
from retina_edge.training.options import TrainOptions


class TrainingProgress:
    """A context manager whose methods the trainer calls."""

    def __init__(self, console: Console, options: TrainOptions) -> None:
        self._console, self._options = console, options
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("epoch 1", total=None)

    def on_step(self, epoch: int, batch: int, batches: int, losses: dict[str, float]) -> None:
        """After each step; ``batch`` of ``batches`` are done."""
        shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        description = f"epoch {epoch + 1}/{self._options.epochs}  {shown}"
        self._progress.update(self._task, description=description, completed=batch, total=batches)

    def on_evaluated(self, done: int, images: int) -> None:
        """After each validation image."""
        self._progress.update(self._task, description="evaluating", completed=done, total=images)

    def on_epoch(self, epoch: int, losses: dict[str, float], result: Evaluation | None) -> None:
        """After each epoch; without a result it was not evaluated."""
        parts = [f"{name} {value:.3f}" for name, value in losses.items() if name != "images_per_second"]
        parts.append(f"{losses['images_per_second']:.1f} images/s")
        if result:
            parts += [f"{name} {result.metrics[name]:.4f}" for name in ("AP", "AP50", "AP75")]
        self._console.print(
            f"epoch {epoch}/{self._options.epochs}  {'  '.join(parts)}", highlight=False, soft_wrap=True
        )

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
