"""``retina_edge.api.open_run``: detector, pipeline and outputs of a run, as ``detect`` and ``serve`` use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from retina_edge.api.tiles import TileOptions
from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sinks.output_checks import check_outputs
from retina_edge.sinks.outputs import Outputs, open_outputs
from retina_edge.sinks.per_stream_sink import sink_for_stream
from retina_edge.sinks.retrying_sink import RetryingSink
from retina_edge.sinks.sink import Sink
from retina_edge.sources.frames import Source
from retina_edge.sources.stream_names import named_sources
from retina_edge.system.folders import event_spool
from retina_edge.system.stop_request import StopRequest, stop_on_signal
from retina_edge.tracking.analysis import StreamAnalyzer
from retina_edge.tracking.counting import Anchor
from retina_edge.tracking.zones import Line, Zone, check_regions

# The least score of a detection, if the model's own threshold is not higher.
DEFAULT_SCORE = 0.4


@dataclass(frozen=True)
class RunOptions:
    """What to detect in, and where results go.

    Attributes:
        model: ``model.engine``, ``model.onnx`` or ``model.pt``.
        sources: each ``SOURCE`` or ``NAME=SOURCE``, as on the command line.
        save: annotated video (``.mp4``), or folder for videos and images; None for neither.
        jsonl, csv: files for results as JSON lines, and for detections as a table; None for neither.
        score: detections score more than this; None for ``DEFAULT_SCORE``, or the model's own threshold if that is
            higher.
        batch: frames, or tiles, in a batch; None for the model's own.
        tiles: cut frames into tiles; None detects in whole frames.
        track: follow objects from frame to frame; regions turn this on, too.
        regions: zones and lines to count in.
        anchor_point: ``bottom`` or ``centre``: the point of a box that decides whether it is inside a region.
        receivers: addresses that events are delivered to, ``mqtt://`` or ``https://``.
        spool: folder for events that wait for delivery.
    """

    model: Path
    sources: Sequence[str]
    save: Path | None = None
    jsonl: Path | None = None
    csv: Path | None = None
    score: float | None = None
    batch: int | None = None
    tiles: TileOptions | None = None
    track: bool = False
    regions: Sequence[Zone | Line] = ()
    anchor_point: Anchor = "bottom"
    receivers: Sequence[str] = ()
    spool: Path = field(default_factory=event_spool)


@dataclass(frozen=True)
class StreamRun:
    """A run that is open but not running yet: call ``pipeline.run()``.

    Attributes:
        sources: one source of each stream, by name. They describe the streams; the pipeline opens others like them.
        pipeline: the pipeline over all streams.
        outputs: files and event receivers.
        stop: set when Ctrl-C or SIGTERM asks the pipeline to end.
    """

    sources: Mapping[str, Source]
    pipeline: Pipeline
    outputs: Outputs
    stop: StopRequest


@contextmanager
def open_run(
    options: RunOptions, *, strict: bool, on_result: Callable[[Result], None] = lambda _: None, **pipeline_options: Any
) -> Iterator[StreamRun]:
    """Open detector, pipeline and outputs inside the block.

    If the run ends with an error because the detector hangs, the detector is not closed: a thread still uses it. All
    files are closed.

    Args:
        options: what to detect in, and where results go.
        strict: True for a run over files: older outputs are overwritten, and an output that fails ends the run. False
            for a service: older outputs are continued, and an output that fails is retried.
        on_result: called with each result before it goes to the outputs, in the detector thread.
        pipeline_options: further arguments of ``Pipeline``.

    Raises:
        RetinaEdgeError, OSError: if an option cannot be satisfied.
    """
    named = named_sources(options.sources)
    sources = {name: make() for name, make in named.items()}
    check_outputs(
        options.model,
        list(sources.values()),
        save=options.save,
        jsonl=options.jsonl,
        csv=options.csv,
        endless=not strict,
    )
    with ExitStack() as stack:
        loaded = stack.enter_context(Detector.load(options.model))
        detector = options.tiles.apply(loaded, batch=options.batch) if options.tiles else loaded
        contract = detector.contract
        check_regions(options.regions, streams=list(sources), class_names=contract.class_names)
        analyze = partial(StreamAnalyzer, regions=options.regions, anchor=options.anchor_point)

        def open_sink(name: str) -> Sink:
            assert options.save is not None
            (stream,) = (stream for stream in pipeline.streams if stream.name == name)
            make = partial(
                sink_for_stream, options.save, sources[name], name=name, live=stream.live, fps=stream.info.fps
            )
            return make() if strict else RetryingSink(f"{options.save}, {name}", make)

        def pass_on(_stream: Stream, result: Result) -> None:
            on_result(result)
            outputs.write(result)

        pipeline = Pipeline(
            detector,
            named,
            on_result=pass_on,
            on_end=lambda stream: outputs.end(stream.name),
            analyze=analyze if options.track or options.regions else None,
            score=max(DEFAULT_SCORE, contract.score_threshold) if options.score is None else options.score,
            batch=1 if options.tiles else options.batch,
            **pipeline_options,
        )
        with (
            _keep_open_if_hanging(pipeline, stack),
            # The first Ctrl-C ends the run in order, with complete files; a second one abandons what hangs.
            stop_on_signal(pipeline.stop) as stop,
            open_outputs(
                jsonl=options.jsonl,
                csv=options.csv,
                save=options.save,
                open_sink=open_sink,
                receivers=options.receivers,
                spool=options.spool,
                strict=strict,
            ) as outputs,
        ):
            yield StreamRun(sources, pipeline, outputs, stop)


@contextmanager
def _keep_open_if_hanging(pipeline: Pipeline, stack: ExitStack) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if pipeline.hangs:
            stack.pop_all()  # drops the detector without closing it
        raise
