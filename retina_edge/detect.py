"""``retina-edge detect``: a model on pictures, videos, a camera or a stream."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from engines.errors import SourceError
from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.pipeline.report import RunProgress, print_summary
from retina_edge.pipeline.single import Pipeline
from retina_edge.sinks.base import Sink
from retina_edge.sinks.checks import check_outputs
from retina_edge.sinks.saving import saving_sink
from retina_edge.sinks.text import JsonlSink
from retina_edge.sinks.window import WindowSink
from retina_edge.sources.frames import Source
from retina_edge.sources.opening import open_sources
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
        metavar="SOURCE",
        help="a picture, a folder of pictures, a video, a glob of files, a camera's number, a URL, a GStreamer "
        "pipeline (gst:...), a Jetson's camera (csi://0)",
    )
    parser.add_argument("--save", type=Path, metavar="OUT.mp4|DIR", help="annotated video, or folder for all")
    parser.add_argument("--json", type=Path, metavar="OUT.jsonl", help="detections, one JSON object a frame")
    parser.add_argument("--show", action="store_true", help="a window; q or Escape ends the run")
    parser.add_argument("--score", type=float, help=f"least score (default {DEFAULT_SCORE}, or the model's own)")
    parser.add_argument("--max-frames", type=cli.positive, metavar="N", help="end each source after N frames")
    parser.add_argument("--batch", type=cli.positive, metavar="N", help="frames, or tiles, an inference (default 1)")
    add_tiles(parser)
    args = parser.parse_args(argv)
    check_tiles(parser, args)
    return cli.run(lambda: _detect(args))


def _detect(args: argparse.Namespace) -> int:
    sources = open_sources(args.sources)
    check_outputs(args.model, sources, save=args.save, jsonl=args.json)
    console = Console()
    progress = RunProgress(console)
    window = WindowSink() if args.show else None
    failed: list[str] = []
    used: list[Sink] = []
    with Detector.load(args.model) as loaded:
        detector = with_tiles(loaded, args)

        def on_progress(frames: int) -> None:
            progress.advance(frames)
            if window is not None and not window.show():
                pipeline.stop()

        default_score = max(DEFAULT_SCORE, detector.contract.score_threshold)
        pipeline = Pipeline(
            detector,
            score=default_score if args.score is None else args.score,
            batch=None if args.tile else args.batch,
            max_frames=args.max_frames,
            on_progress=on_progress,
        )
        try:
            with ExitStack() as stack:
                if args.json is not None:
                    used.append(stack.enter_context(JsonlSink(args.json)))
                if window is not None:
                    used.append(stack.enter_context(window))
                sinks = tuple(used)
                stack.enter_context(progress)
                for source in sources:
                    try:
                        with ExitStack() as opened:
                            _start(progress, opened.enter_context(source), pipeline.max_frames)
                            saving = [] if args.save is None else [opened.enter_context(saving_sink(args.save, source))]
                            used += saving
                            pipeline.run(source, [*sinks, *saving])
                    except SourceError as error:
                        # One dead camera or damaged file does not end the others.
                        if len(sources) == 1:
                            raise
                        failed.append(str(error))
                    if pipeline.stopped:
                        break
                    if window is not None and isinstance(source, ImageSource) and not window.show(wait=True):
                        break
        finally:
            summary = pipeline.summary()
            summary = dataclasses.replace(summary, errors=(*summary.errors, *failed))
            if summary.frames or summary.errors:
                # Each once: the pictures of several sources go to one folder.
                outputs = dict.fromkeys(str(sink.written) for sink in used if sink.written is not None)
                print_summary(console, summary, list(outputs))
    return 1 if summary.errors else 0


def _start(progress: RunProgress, source: Source, max_frames: int | None) -> None:
    frames = source.info.frames
    progress.start(source.name, min(frames, max_frames or frames) if frames else max_frames)


if __name__ == "__main__":
    raise SystemExit(main())
