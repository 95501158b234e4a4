"""``retina-edge detect``: a model on pictures, videos, cameras and streams."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext

from rich.console import Console

from retina_edge import cli
from retina_edge.pipeline.pipeline import TICK
from retina_edge.pipeline.report import RunProgress, Summary, print_summary
from retina_edge.sinks.window import WindowSink
from retina_edge.sources.pictures import ImageSource
from retina_edge.stream_arguments import Opened, StreamParser, opened


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 after an error, when a source or picture could not be read, or when events were lost; 130 after
    Ctrl-C or SIGTERM."""
    parser = StreamParser("detect", "Run a model on pictures, videos, cameras and streams.")
    parser.add_argument("--show", action="store_true", help="windows; q or Escape ends the run")
    parser.add_argument("--max-frames", type=cli.positive, metavar="N", help="end each source after N frames")
    args = parser.parse_args(argv)
    return cli.run(lambda: _detect(args))


def _detect(args: argparse.Namespace) -> int:
    console = Console()
    run: Opened | None = None
    window = WindowSink() if args.show else None
    try:
        with (
            window or nullcontext(),
            opened(
                args,
                strict=True,
                on_result=window.write if window else lambda _: None,
                max_frames=args.max_frames,
                keep_trying=False,
            ) as run,
        ):
            _run(console, run, window, max_frames=args.max_frames)
    finally:
        if run is not None:
            summary = Summary.of(run.pipeline, writing=run.outputs.seconds, outputs=run.outputs.status())
            if summary.frames or summary.errors:
                print_summary(console, summary, [str(path) for path in run.outputs.written])
    if run.outputs.failed:  # the log has said which
        return 1
    if run.stop.asked:
        raise KeyboardInterrupt
    return 1 if any(stream.errors for stream in run.pipeline.streams) else 0


def _run(console: Console, run: Opened, window: WindowSink | None, *, max_frames: int | None) -> None:
    pipeline = run.pipeline
    closed = False

    def tick() -> None:
        nonlocal closed
        progress.update()
        if window is not None and not closed and not window.show():
            closed = True
            pipeline.stop()

    with RunProgress(console, pipeline.streams, max_frames=max_frames) as progress:
        pipeline.run(tick)
    if window is not None and not closed and any(isinstance(source, ImageSource) for source in run.sources.values()):
        while not run.stop.asked and window.show():  # pictures stay
            time.sleep(TICK)


if __name__ == "__main__":
    raise SystemExit(main())
