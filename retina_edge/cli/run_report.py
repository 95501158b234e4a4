"""What a person at the terminal sees of a run: a bar while it lasts, a table at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.stream import State, Stream
from retina_edge.sinks.outputs import OutputStatus
from retina_edge.system.printable import printable

STAGES = ("read", "preprocess", "infer", "draw+write")


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        frames: with a result.
        detections: in them, above the score asked for.
        dropped: frames of live streams without a result: replaced by newer ones, too old, or the detector raised.
        seconds: from the first read to the last result.
        stage_ms: milliseconds a frame of each of ``STAGES``. They overlap, so their sum is not the time a frame.
        errors: streams and pictures that could not be read, one line each.
        warnings: what is odd in a source, or was left out of an output, one line each.
    """

    frames: int
    detections: int
    dropped: int
    seconds: float
    stage_ms: dict[str, float]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, pipeline: Pipeline, *, writing: float, outputs: Sequence[OutputStatus] = ()) -> Summary:
        """Of a pipeline that has run; ``writing`` are the seconds that its sinks took, ``outputs`` what became of
        them."""
        streams = pipeline.streams
        frames = sum(stream.detected for stream in streams)
        reading = sum(stream.read_seconds for stream in streams)
        stages = reading, pipeline.preprocess_seconds, pipeline.infer_seconds, writing
        return cls(
            frames=frames,
            detections=sum(stream.objects for stream in streams),
            dropped=sum(stream.mailbox.dropped + stream.expired + stream.failed for stream in streams if stream.live),
            seconds=pipeline.seconds,
            stage_ms={stage: 1000 * spent / max(1, frames) for stage, spent in zip(STAGES, stages, strict=True)},
            errors=tuple(error for stream in streams for error in stream.errors),
            warnings=(
                *(warning for stream in streams for warning in stream.warnings),
                *(
                    f"{output.name}: too slow, {output.dropped} results of live streams were left out"
                    for output in outputs
                    if output.kind == "file" and output.dropped
                ),
            ),
        )

    @property
    def fps(self) -> float:
        """Frames a second over the whole run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


class _FpsColumn(ProgressColumn):
    """Frames a second so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} fps", style="progress.data.speed")


class RunProgress:
    """A bar for each stream that is under way: its frames, their rate, the time left, and what keeps it."""

    def __init__(self, console: Console, streams: Sequence[Stream], *, max_frames: int | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _FpsColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._max_frames = max_frames
        self._tasks = [
            (stream, self._progress.add_task(printable(stream.source), total=None, visible=False)) for stream in streams
        ]

    def update(self) -> None:
        """Shows how far all are; call it now and then."""
        for stream, task in self._tasks:
            limits = [limit for limit in (stream.info.frames, self._max_frames) if limit]
            state = "" if stream.state is State.ONLINE else f" ({stream.state.value})"
            self._progress.update(
                task,
                description=printable(stream.source) + state,
                completed=stream.detected,
                total=min(limits) if limits else None,
                visible=stream.started and stream.state is not State.ENDED,
            )

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
    if summary.dropped:
        table.add_row("left out of live streams", str(summary.dropped))
    table.add_row("detections", str(summary.detections))
    table.add_row("frames a second", f"{summary.fps:.1f} ({summary.seconds:.1f} s in all)")
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in summary.stage_ms.items())
    table.add_row("ms a frame, overlapping", stages)
    if summary.frames:
        console.print(table)
    # Outside the table, whole lines: names that a table breaks cannot be searched or copied.
    for output in outputs:
        console.print(Text(f"written: {printable(output)}"), soft_wrap=True)
    problems = Console(stderr=True)
    for warning in summary.warnings:
        problems.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    for error in summary.errors:
        problems.print(Text(f"error: {error}", "red"), soft_wrap=True)
