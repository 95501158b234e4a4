"""The terminal output of a run: progress bars during the run, and a table at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from retina_edge.cli.no_objects import why_no_objects
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.stream import State, Stream
from retina_edge.sinks.outputs import OutputStatus
from retina_edge.system.console import Console
from retina_edge.system.printable import printable
from retina_edge.system.table import Table
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.zones import Zone

# Stages of a run, in the order of the table.
STAGES = ("read", "preprocess", "infer", "draw+write")


@dataclass(frozen=True)
class Summary:
    """The figures of a run.

    Attributes:
        frames: number of frames with a result.
        objects: number of detections in these frames, above the score threshold, by class.
        dropped: number of frames of live streams without a result: replaced by newer frames, too old, or failed in the
            detector.
        seconds: time from the first read to the last result.
        stage_ms: milliseconds per frame of each of ``STAGES``. The stages overlap, so their sum is not the time per
            frame.
        errors: streams and images that could not be read, one line each.
        warnings: problems of sources that did not end a stream, and results that an output dropped, one line each.
        tracks: number of tracks in the results; None without tracking.
        tallies: name of the stream and final counts, for each zone and line.
        why_empty: reason why there are no detections; empty if there are some.

    Examples:
        >>> summary = Summary(frames=90, objects={"car": 12}, dropped=0, seconds=3.0, stage_ms={"infer": 20.0})
        >>> summary.fps
        30.0
    """

    frames: int
    objects: Mapping[str, int]
    dropped: int
    seconds: float
    stage_ms: dict[str, float]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tracks: int | None = None
    tallies: tuple[tuple[str, Tally], ...] = ()
    why_empty: str = ""

    @classmethod
    def of(cls, pipeline: Pipeline, *, writing: float, outputs: Sequence[OutputStatus] = ()) -> Summary:
        """Summarize a pipeline that has ended.

        Args:
            pipeline: the pipeline.
            writing: seconds that the sinks took.
            outputs: status of the outputs.
        """
        streams = pipeline.streams
        frames = sum(stream.detected for stream in streams)
        reading = sum(stream.read_seconds for stream in streams)
        stages = reading, pipeline.preprocess_seconds, pipeline.infer_seconds, writing
        objects = sum((stream.objects for stream in streams), Counter[str]())
        followed = [stream.tracks for stream in streams if stream.tracks is not None]
        best_score = max(stream.best_score for stream in streams)
        return cls(
            frames=frames,
            objects=dict(objects.most_common()),
            dropped=sum(stream.mailbox.dropped + stream.expired + stream.failed for stream in streams if stream.live),
            seconds=pipeline.seconds,
            stage_ms={stage: 1000 * spent / max(1, frames) for stage, spent in zip(STAGES, stages, strict=True)},
            errors=tuple(error for stream in streams for error in stream.errors),
            warnings=(
                *(warning for stream in streams for warning in stream.warnings),
                *(
                    f"{output.name}: too slow, {output.dropped} results of live streams were dropped"
                    for output in outputs
                    if output.kind == "file" and output.dropped
                ),
            ),
            tracks=sum(followed) if followed else None,
            tallies=tuple(
                (stream.name, tally) for stream in streams if stream.latest for tally in stream.latest.tallies
            ),
            why_empty=""
            if objects
            else why_no_objects(best_score, score=pipeline.score, model_threshold=pipeline.model_threshold),
        )

    @property
    def detections(self) -> int:
        """Number of detections of all classes."""
        return sum(self.objects.values())

    @property
    def fps(self) -> float:
        """Frames per second over the whole run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


class _FpsColumn(ProgressColumn):
    """A column with the frames per second so far."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} fps", style="progress.data.speed")


class RunProgress:
    """A progress bar for each running stream, with its state, frames, frame rate and remaining time.

    Args:
        console: console to draw on.
        streams: streams of the run.
        max_frames: number of frames after which a stream ends; None for no limit.
    """

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
        """Show the current state of all streams. Call this method regularly."""
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
    """Print the table of a run, the reason if nothing was found, and the written files.

    Warnings and errors go to stderr, one line each.

    Args:
        console: console for the table.
        summary: summary of the whole run.
        outputs: files and folders that were written.
    """
    table = Table(show_header=False)
    table.add_row("frames", str(summary.frames))
    if summary.dropped:
        table.add_row("dropped from live streams", str(summary.dropped))
    classes = f": {_by_class(summary.objects)}" if summary.objects else ""
    table.add_row("detections", f"{summary.detections}{classes}")
    if summary.tracks is not None:
        table.add_row("tracks", str(summary.tracks))
    several = len({stream for stream, _ in summary.tallies}) > 1
    for stream, tally in summary.tallies:
        kind = "zone" if isinstance(tally.region, Zone) else "line"
        name = f"{stream}: {tally.region.name}" if several else tally.region.name
        table.add_row(f"{kind} {name}", _counts(tally))
    table.add_row("frames per second", f"{summary.fps:.1f} ({summary.seconds:.1f} s in total)")
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in summary.stage_ms.items())
    table.add_row("ms per frame, overlapping", stages)
    if summary.frames:
        console.print(table)
        if summary.why_empty:
            console.print(Text(f"no objects: {summary.why_empty}", "yellow"), soft_wrap=True)
    # Print names as whole lines, because names that a table wraps cannot be searched or copied.
    for output in outputs:
        console.print(Text(f"written: {printable(output)}"), soft_wrap=True)
    problems = Console(stderr=True)
    for warning in summary.warnings:
        problems.print(Text(f"warning: {printable(warning)}", "yellow"), soft_wrap=True)
    for error in summary.errors:
        problems.print(Text(f"error: {printable(error)}", "red"), soft_wrap=True)


def _by_class(counts: Mapping[str, int]) -> str:
    """Return text such as ``3 person, 1 car``."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _counts(tally: Tally) -> str:
    """Return the totals of a zone or line, with the classes if there are several: ``4 in (3 person, 1 car), 2 out``."""
    parts = []
    for name, count in tally.counts.items():
        classes = tally.by_class[name]
        parts.append(f"{count} {name}" + (f" ({_by_class(classes)})" if len(classes) > 1 else ""))
    return ", ".join(parts)
