"""``retina-edge demo``: detect tree crowns on a flight over a forest, with the sample model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.core.errors import ModelFileError
from retina_edge.assets import FOREST, MODEL
from retina_edge.cli import argument_types, running
from retina_edge.cli.run_report import RunProgress, Summary, print_summary
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.detector import Detector
from retina_edge.imaging.image_file import read_image, write_image
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.sinks.outputs import open_outputs
from retina_edge.sinks.video_sink import VideoSink
from retina_edge.sources.flight import FPS, Flight
from retina_edge.system.console import Console
from retina_edge.system.output_file import check_output
from retina_edge.system.stop_request import stop_on_signal

FRAMES = 240


class DemoSink(VideoSink):
    """A sink that writes an annotated video, and one frame of the video as an image.

    Args:
        path: path of the video.
        image_path: path of the image.
        index: index of the frame to write as an image.
    """

    def __init__(self, path: Path, image_path: Path, *, index: int) -> None:
        super().__init__(path, fps=FPS)
        self.image_path, self.index = image_path, index

    def write(self, result: Result) -> None:
        super().write(result)
        if result.frame.index == self.index:
            write_image(self.image_path, result.annotated)


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge demo",
        "Detect tree crowns on a flight over a forest, with the sample model.",
        example="retina-edge demo -o out --frames 60",
    )
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("out"),
        metavar="DIR",
        help="folder for demo.mp4, demo.jsonl, demo.png (default: out)",
    )
    add(
        "--frames",
        type=argument_types.positive_int,
        default=FRAMES,
        metavar="N",
        help="number of frames of the flight (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    args = build_parser().parse_args(argv)
    return running.run(lambda: _demo(args.output, frames=args.frames))


def _demo(output: Path, *, frames: int) -> int:
    if not MODEL.is_file():
        raise ModelFileError(f"{MODEL}: the sample model is missing from this installation; install retina-edge again")
    check_output("-o", output / "demo.mp4")
    console = Console()
    flight = Flight(read_image(FOREST), frames=frames)
    video, lines, image = (output / f"demo.{kind}" for kind in ("mp4", "jsonl", "png"))
    with Detector.load(MODEL) as detector:
        pipeline = Pipeline(
            detector,
            {flight.name: lambda: flight},
            on_result=lambda _, result: outputs.write(result),
            on_end=lambda stream: outputs.end(stream.name),
        )
        with (
            stop_on_signal(pipeline.stop) as stop,
            open_outputs(
                jsonl=lines,
                save=video,
                open_sink=lambda _: DemoSink(video, image, index=frames // 2),
                strict=True,
            ) as outputs,
            RunProgress(console, pipeline.streams) as progress,
        ):
            pipeline.run(progress.update)
    if stop.requested:
        raise KeyboardInterrupt
    written = [str(path) for path in (video, lines, image)]
    print_summary(console, Summary.of(pipeline, writing=outputs.seconds), written)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
