"""``retina-edge demo``: tree crowns detected on a flight over a forest, with the model that ships."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console

from engines.errors import ModelFileError
from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.image_file import read_image
from retina_edge.streams.pipeline import Pipeline
from retina_edge.streams.report import RunProgress, print_summary
from retina_edge.streams.sinks import JsonlSink, Result, Sink, VideoSink, write_image
from retina_edge.streams.sources import Frame, Source, SourceInfo

ASSETS = Path(__file__).parent / "assets"
MODEL = ASSETS / "treecrowns.onnx"
FOREST = ASSETS / "forest.jpg"
WINDOW = (416, 736)
FPS = 25.0
FRAMES = 240
SCORE = 0.4
# Sweeps across the strip, chosen so that the windows together show every part of it.
SWEEPS = 4


class Flight(Source):
    """A window that moves over one large picture, by fractions of a pixel as a camera does.

    It goes along the width while it sweeps over the height, and waits at both ends for half a sweep, so that
    the corners come into view.

    Args:
        ground: uint8 [height, width, 3], BGR, at least as large as the window.
        frames: of the whole flight.
        window: (height, width) of the frames, pixels.
    """

    def __init__(
        self, ground: npt.NDArray[np.uint8], *, frames: int = FRAMES, window: tuple[int, int] = WINDOW
    ) -> None:
        super().__init__()
        self.name = "flight"
        self.output_names = ("flight.mp4",)
        self.info = SourceInfo(window, FPS, frames)
        self._ground = ground
        self._window = window
        self._frames = frames

    def corner(self, index: int) -> tuple[float, float]:
        """Top left (x, y) of the window of a frame, pixels of the ground."""
        time = index / max(1, self._frames - 1)
        wait = 1 / (2 * SWEEPS)
        along = min(1.0, max(0.0, (time - wait) / (1 - 2 * wait)))
        along = along * along * (3 - 2 * along)  # sets off and arrives gently
        across = 0.5 - 0.5 * math.cos(2 * math.pi * SWEEPS * time)
        height, width = (whole - part for whole, part in zip(self._ground.shape[:2], self._window, strict=True))
        return along * width, across * height

    def __iter__(self) -> Iterator[Frame]:
        height, width = self._window
        for index in range(self._frames):
            x, y = self.corner(index)
            center = (x + (width - 1) / 2, y + (height - 1) / 2)
            image = cv2.getRectSubPix(self._ground, (width, height), center)
            yield Frame(image.astype(np.uint8, copy=False), index, index / FPS, self.name)


class StillSink(Sink):
    """Saves one annotated frame as a picture."""

    draws = True

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
