"""``retina-edge detect``: a model on pictures, videos, a camera or a stream."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.pipeline.outputs import Outputs, open_outputs
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.report import RunProgress, Summary, print_summary
from retina_edge.pipeline.stream import Stream
from retina_edge.pipeline.watched import TICK, run_watched
from retina_edge.signals import stop_on_signal
from retina_edge.sinks.base import Result, Sink
from retina_edge.sinks.checks import check_outputs
from retina_edge.sinks.saving import saving_sink
from retina_edge.sinks.window import WindowSink
from retina_edge.sources.naming import named_sources
from retina_edge.sources.pictures import ImageSource
from retina_edge.tile_arguments import add_tiles, check_tiles, with_tiles

DEFAULT_SCORE = 0.4


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 after an error or when a source or picture could not be read; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="retina-edge detect", description="Run a model on frames.")
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.engine, model.onnx or model.pt")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="[NAME=]SOURCE",
        help="a picture, a folder of pictures, a video, a glob of files, a camera's number, a URL, a GStreamer "
        "pipeline (gst:...), a Jetson's camera (csi://0)",
    )
    parser.add_argument("--save", type=Path, metavar="OUT.mp4|DIR", help="annotated video, or folder for all")
    parser.add_argument("--json", type=Path, metavar="OUT.jsonl", help="detections, one JSON object a frame")
    parser.add_argument("--csv", type=Path, metavar="OUT.csv", help="detections, one row each")
    parser.add_argument("--show", action="store_true", help="a window; q or Escape ends the run")
    parser.add_argument("--score", type=float, help=f"least score (default {DEFAULT_SCORE}, or the model's own)")
    parser.add_argument("--max-frames", type=cli.positive, metavar="N", help="end each source after N frames")
    parser.add_argument("--batch", type=cli.positive, metavar="N", help="frames, or tiles, an inference (default 1)")
    add_tiles(parser)
    args = parser.parse_args(argv)
    check_tiles(parser, args)
    return cli.run(lambda: _detect(args))


def _detect(args: argparse.Namespace) -> int:
    named = named_sources(args.sources)
    sources = {name: make() for name, make in named.items()}
    check_outputs(args.model, list(sources.values()), save=args.save, jsonl=args.json, csv=args.csv)
    console = Console()
    window = WindowSink() if args.show else None
    with ExitStack() as stack:
        detector = with_tiles(stack.enter_context(Detector.load(args.model)), args)
        default_score = max(DEFAULT_SCORE, detector.contract.score_threshold)

        def saving(name: str) -> Sink:
            (stream,) = (stream for stream in pipeline.streams if stream.name == name)
            return saving_sink(args.save, sources[name], name=name, fps=stream.info.fps)

        def on_result(_stream: Stream, result: Result) -> None:
            outputs.write(result)
            if window is not None:
                window.write(result)

        pipeline = Pipeline(
            detector,
            named,
            on_result=on_result,
            on_end=lambda stream: outputs.end(stream.name),
            score=default_score if args.score is None else args.score,
            batch=1 if args.tile else args.batch,
            max_frames=args.max_frames,
            keep_trying=False,
        )
        if window is not None:
            stack.enter_context(window)
        with (
            # The first Ctrl-C ends the run in order, with whole files; one more gives up what hangs.
            stop_on_signal(pipeline.stop) as stop,
            open_outputs(jsonl=args.json, csv=args.csv, save=args.save, saving=saving, strict=True) as outputs,
        ):
            stack.callback(lambda: _tell(console, pipeline, outputs))
            progress = RunProgress(console, pipeline.streams, max_frames=args.max_frames)
            closed = run_watched(pipeline, progress, None if window is None else window.show)
            if window is not None and not closed and any(isinstance(s, ImageSource) for s in sources.values()):
                while not stop.asked and window.show():  # pictures stay
                    time.sleep(TICK)
        if stop.asked:
            raise KeyboardInterrupt
    return 1 if any(stream.errors for stream in pipeline.streams) else 0


def _tell(console: Console, pipeline: Pipeline, outputs: Outputs) -> None:
    summary = Summary.of(pipeline, writing=outputs.seconds)
    if summary.frames or summary.errors:
        print_summary(console, summary, [str(path) for path in outputs.written])


if __name__ == "__main__":
    raise SystemExit(main())
