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

from retina_edge.pipeline.single import Summary


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
        self._task = self._progress.add_task(_printable(name), total=total)

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
    """The table of a run and the files written; on stderr, line by line, what was odd or could not be read.

    Args:
        console: where the table goes.
        summary: of the whole run.
        outputs: files and folders written.
    """
    table = Table(show_header=False)
    table.add_row("frames", str(summary.frames))
    table.add_row("detections", str(summary.detections))
    table.add_row("frames a second", f"{summary.fps:.1f} ({summary.seconds:.1f} s in all)")
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in summary.stage_ms.items())
    table.add_row("ms a frame, overlapping", stages)
    console.print(table)
    # Outside the table, whole lines: names that a table breaks cannot be searched or copied.
    for output in outputs:
        console.print(Text(f"written: {_printable(output)}"), soft_wrap=True)
    problems = Console(stderr=True)
    for warning in summary.warnings:
        problems.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    for error in summary.errors:
        problems.print(Text(f"error: {error}", "red"), soft_wrap=True)


def _printable(name: str) -> str:
    """A file name for stdout, which refuses the surrogates of names that are not UTF-8."""
    return name.encode(errors="backslashreplace").decode()
