"""``retina-edge detect``: run a model on images, videos, cameras and streams."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext

from retina_edge.api.running import StreamRun, open_run
from retina_edge.cli import argument_types, running
from retina_edge.cli.run_report import RunProgress, Summary, print_summary
from retina_edge.cli.stream_options import StreamParser, run_options
from retina_edge.pipeline.pipeline import TICK_SECONDS
from retina_edge.sinks.window_sink import WindowSink
from retina_edge.sources.image_source import ImageSource
from retina_edge.system.console import Console


def build_parser() -> StreamParser:
    """Return the parser of the verb."""
    parser = StreamParser(
        "detect",
        "Run a model on images, videos, cameras and streams.",
        example="retina-edge detect model.onnx video.mp4 --save annotated.mp4",
    )
    add = parser.add_argument_group("run").add_argument
    add("--show", action="store_true", help="show each stream in a window; q or Escape ends the run")
    add(
        "--max-frames",
        type=argument_types.positive_int,
        metavar="N",
        help="end each source after N frames (default: all frames)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code.

    Returns:
        0 on success; 1 after an error, if a source or image could not be read, or if events were lost; 130 after Ctrl-C
        or SIGTERM.
    """
    args = build_parser().parse_args(argv)
    return running.run(lambda: _detect(args))


def _detect(args: argparse.Namespace) -> int:
    console = Console()
    run: StreamRun | None = None
    window = WindowSink() if args.show else None
    options = run_options(args)
    try:
        with (
            running.exit_if(lambda: run is not None and run.pipeline.hangs),
            window or nullcontext(),
            open_run(
                options,
                strict=True,
                on_result=window.write if window else lambda _: None,
                max_frames=args.max_frames,
                keep_trying=False,
            ) as run,
        ):
            if options.outputs.clips is not None:
                notice = options.outputs.clips.describe(streams=len(run.pipeline.streams))
                console.print(notice, highlight=False, markup=False, soft_wrap=True)
            _run(console, run, window, max_frames=args.max_frames)
    finally:
        if run is not None:
            summary = Summary.of(run.pipeline, writing=run.outputs.seconds, outputs=run.outputs.status())
            if summary.frames or summary.errors:
                print_summary(console, summary, [str(path) for path in run.outputs.written])
    if run.outputs.incomplete:  # the log names the outputs and their errors
        return 1
    if run.stop.requested:
        raise KeyboardInterrupt
    return 1 if any(stream.errors for stream in run.pipeline.streams) else 0


def _run(console: Console, run: StreamRun, window: WindowSink | None, *, max_frames: int | None) -> None:
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
        while not run.stop.requested and window.show():  # images stay until the user closes the window
            time.sleep(TICK_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
