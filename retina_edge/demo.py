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
from retina_edge.pipeline.outputs import open_outputs
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.report import RunProgress, Summary, print_summary
from retina_edge.sample import FOREST, FPS, MODEL, SCORE, Flight
from retina_edge.signals import stop_on_signal
from retina_edge.sinks.base import Result
from retina_edge.sinks.pictures import write_image
from retina_edge.sinks.video import VideoSink

FRAMES = 240


class FilmSink(VideoSink):
    """An annotated video, and of one frame a picture."""

    def __init__(self, path: Path, still: Path, *, index: int) -> None:
        super().__init__(path, fps=FPS)
        self.still, self.index = still, index

    def write(self, result: Result) -> None:
        super().write(result)
        if result.frame.index == self.index:
            write_image(self.still, result.picture)


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
    with Detector.load(MODEL) as detector:
        pipeline = Pipeline(
            detector,
            {flight.name: lambda: flight},
            on_result=lambda _, result: outputs.write(result),
            on_end=lambda stream: outputs.end(stream.name),
            score=SCORE,
        )
        with (
            stop_on_signal(pipeline.stop) as stop,
            open_outputs(
                jsonl=lines, save=video, saving=lambda _: FilmSink(video, still, index=frames // 2), strict=True
            ) as outputs,
            RunProgress(console, pipeline.streams) as progress,
        ):
            pipeline.run(progress.update)
    if stop.asked:
        raise KeyboardInterrupt
    print_summary(console, Summary.of(pipeline, writing=outputs.seconds), [str(p) for p in (video, lines, still)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
