"""``retina-edge demo``: tree crowns detected on a flight over a forest, with the model that ships."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from engines.errors import ModelFileError
from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.image_file import read_image
from retina_edge.pipeline.report import RunProgress, print_summary
from retina_edge.pipeline.single import Pipeline
from retina_edge.sample import FOREST, FPS, MODEL, SCORE, Flight
from retina_edge.sinks.base import Result, Sink
from retina_edge.sinks.pictures import write_image
from retina_edge.sinks.text import JsonlSink
from retina_edge.sinks.video import VideoSink

FRAMES = 240


class StillSink(Sink):
    """Saves one annotated frame as a picture."""

    def __init__(self, path: Path, *, index: int) -> None:
        self.path = path
        self.index = index

    def write(self, result: Result) -> None:
        if result.frame.index == self.index:
            write_image(self.path, result.picture)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="retina-edge demo", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("out"), metavar="DIR", help="default: out")
    parser.add_argument("--frames", type=cli.positive, default=FRAMES, metavar="N", help=f"default: {FRAMES}")
    args = parser.parse_args(argv)
    return cli.run(lambda: _demo(args.output, frames=args.frames))


def _demo(output: Path, *, frames: int) -> int:
    if not MODEL.is_file():
        raise ModelFileError(f"{MODEL}: the demo's model is missing from this installation; install it again")
    console = Console()
    flight = Flight(read_image(FOREST), frames=frames)
    video, lines, still = (output / f"demo.{kind}" for kind in ("mp4", "jsonl", "png"))
    with (
        Detector.load(MODEL) as detector,
        RunProgress(console) as progress,
        JsonlSink(lines) as jsonl_sink,
        VideoSink(video, fps=FPS) as video_sink,
        StillSink(still, index=frames // 2) as still_sink,
    ):
        progress.start("flight over the forest", frames)
        pipeline = Pipeline(detector, score=SCORE, on_progress=progress.advance)
        pipeline.run(flight, [jsonl_sink, video_sink, still_sink])
    print_summary(console, pipeline.summary(), [str(path) for path in (video, lines, still)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
