"""The implementation of ``retina_edge.api.open_run``: detector, pipeline and outputs of ``detect`` and ``serve``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.core.contract import check_bit_depth
from engines.core.option_checks import check_integer, check_number
from retina_edge.api.tiles import TileOptions
from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sinks.output_options import OutputOptions
from retina_edge.sinks.outputs import Outputs
from retina_edge.sources.frames import Source, check_fps
from retina_edge.sources.stream_names import named_sources, with_bit_depth
from retina_edge.system.stop_request import StopRequest, stop_on_signal
from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.region_store import RegionStore


@dataclass(frozen=True)
class RunOptions:
    """The model, the sources and the outputs of a run.

    Attributes:
        model: path of the model: ``.engine``, ``.onnx`` or ``.pt``.
        sources: sources, each ``SOURCE`` or ``NAME=SOURCE``, as on the command line; text stands for one source.
        score: detections score more than this; None for 0.4, or the model's own threshold if that is higher.
        batch: frames, or tiles, in a batch; None for the model's own.
        bit_depth: bits that image files of 16 bits use, 9 to 16; None for the model's.
        tiles: tiles to cut frames into; None to detect in whole frames.
        tracking: tracking, zones and lines.
        outputs: files and event receivers.
        fps: frames per second of image files and video files, instead of the times in them; None to use these times.
        device: device to run the model on, as for ``Detector.load``.

    Raises:
        ContractError: if an option is out of range.

    Examples:
        >>> outputs = OutputOptions(save=Path("out"))
        >>> options = RunOptions(Path("model.engine"), ["north=rtsp://camera/1", "video.mp4"], outputs=outputs)
    """

    model: Path | str
    sources: Sequence[str]
    score: float | None = None
    batch: int | None = None
    bit_depth: int | None = None
    tiles: TileOptions | None = None
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    outputs: OutputOptions = field(default_factory=OutputOptions)
    fps: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.sources, str):
            object.__setattr__(self, "sources", [self.sources])
        if self.score is not None:
            check_number("score", self.score, "0 <= score < 1", lambda score: 0 <= score < 1)
        if self.batch is not None:
            check_integer("batch", self.batch, 1)
        if self.bit_depth is not None:
            check_bit_depth(self.bit_depth)
        if self.fps is not None:
            check_fps(self.fps)


@dataclass(frozen=True)
class StreamRun:
    """A run that is open but not running yet: call ``pipeline.run()``.

    Attributes:
        sources: a source for each stream, by name. These sources only describe the streams; the pipeline opens its own
            ones.
        pipeline: the pipeline over all streams.
        regions: zones, lines and masks of the streams, which may be changed while it runs.
        outputs: files and event receivers.
        stop: request to end the pipeline, which Ctrl-C and SIGTERM set.
    """

    sources: Mapping[str, Source]
    pipeline: Pipeline
    regions: RegionStore
    outputs: Outputs
    stop: StopRequest


@contextmanager
def open_run(
    options: RunOptions, *, strict: bool, on_result: Callable[[Result], None] = lambda _: None, **pipeline_options: Any
) -> Iterator[StreamRun]:
    """Open detector, pipeline and outputs, and close them at the end of the block.

    If the run ends with an error while the detector hangs, the detector stays open, because a thread still uses it. All
    files are closed.

    Args:
        options: the model, the sources and the outputs.
        strict: True for a run over files: existing outputs are overwritten, and an output that fails ends the run.
            False for a service: existing outputs are continued, and an output that fails is retried.
        on_result: called in the detector thread with each result, before the outputs get the result.
        pipeline_options: further arguments of ``Pipeline``.

    Raises:
        RetinaEdgeError, OSError: if the model, a source or an output cannot be opened, or an option is invalid.

    Examples:
        >>> from retina_edge.assets import FOREST, MODEL
        >>> with open_run(RunOptions(MODEL, [str(FOREST)]), strict=True) as run:
        ...     run.pipeline.run()
        >>> run.pipeline.streams[0].detected, run.pipeline.streams[0].objects
        (1, Counter({'tree': 84}))
    """
    named = named_sources(options.sources, fps=options.fps)
    sources = {name: make() for name, make in named.items()}
    options.outputs.check(Path(options.model), list(sources.values()), endless=not strict)
    with ExitStack() as stack:
        loaded = stack.enter_context(Detector.load(options.model, device=options.device))
        detector = options.tiles.apply(loaded, batch=options.batch) if options.tiles else loaded
        contract = detector.contract
        regions = options.tracking.store(list(named), contract.class_names, editable=not strict)

        def pass_on(stream: Stream, result: Result) -> None:
            # The API names clips in the newest result, too.
            stream.latest = result = outputs.name_clips(result)
            on_result(result)
            outputs.write(result)

        pipeline = Pipeline(
            detector,
            with_bit_depth(named, options.bit_depth or contract.bit_depth),
            on_result=pass_on,
            on_end=lambda stream: outputs.end(stream.name),
            analyze=options.tracking.analyzers(regions),
            score=options.score,
            batch=1 if options.tiles else options.batch,
            **pipeline_options,
        )
        with (
            _keep_open_if_hanging(pipeline, stack),
            # The first Ctrl-C ends the run with complete files; a second one abandons threads that hang.
            stop_on_signal(pipeline.stop) as stop,
            options.outputs.open(sources, pipeline.streams, strict=strict) as outputs,
        ):
            yield StreamRun(sources, pipeline, regions, outputs, stop)


@contextmanager
def _keep_open_if_hanging(pipeline: Pipeline, stack: ExitStack) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if pipeline.hangs:
            stack.pop_all()  # drops the detector without closing it
        raise
