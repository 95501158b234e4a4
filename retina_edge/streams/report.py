"""What a person at the terminal sees of a run: a bar while it lasts, a table at its end."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from retina_edge.streams.pipeline import Summary


class _FpsColumn(ProgressColumn):
    """Frames a second so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} fps", style="progress.data.speed")


class RunProgress:
    """A bar with the number of frames of one source after another, their rate and the time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _FpsColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def start(self, name: str, total: int | None) -> None:
        """Begins anew for a source of ``total`` frames, None where nobody knows."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total)

    def advance(self, frames: int) -> None:
        """Counts frames detected."""
        if self._task is not None:
            self._progress.advance(self._task, frames)

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def print_summary(console: Console, summary: Summary, outputs: list[str]) -> None:
    """The table of a run, with what could not be read and the files written.

    Args:
        console: where to.
        summary: of the whole run.
        outputs: files and folders written.
    """
    table = Table(show_header=False)
    table.add_row("frames", str(summary.frames))
    table.add_row("detections", str(summary.detections))
    table.add_row("frames a second", f"{summary.fps:.1f} ({summary.seconds:.1f} s in all)")
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in summary.stage_ms.items())
    table.add_row("ms a frame, overlapping", stages)
    for output in outputs:
        table.add_row("written", Text(output))
    for warning in summary.warnings:
        table.add_row("[yellow]warning", Text(warning))
    for error in summary.errors:
        table.add_row("[red]error", Text(error))
    console.print(table)
