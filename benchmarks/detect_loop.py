"""Cost of everything around the network: the whole detect loop on a video against the bare session.

    python -m benchmarks.detect_loop

The loop decodes a video file, detects, draws, encodes an annotated video and writes JSON lines. The bare session is
ONNX Runtime that runs the same letterboxed frame again and again. The two are measured in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from benchmarks.forest_frame import forest_frame
from benchmarks.networks import export_lively_r50
from benchmarks.record import begin, save
from engines.core.letterbox import letterbox_batch
from retina_edge import Detector
from retina_edge.assets import FOREST, MODEL
from retina_edge.imaging.image_file import read_image
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.sinks.outputs import open_outputs
from retina_edge.sinks.video_sink import VideoSink
from retina_edge.sources.flight import FPS, Flight
from retina_edge.sources.video_source import VideoSource

FRAMES = 60
SCORE = 0.4


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of the loop and of the bare session (default: 5)")
    rounds = parser.parse_args(argv).rounds
    before = begin()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = _record_video(folder / "flight.mp4")
        r50 = export_lively_r50(folder / "r50.onnx", 320, forest_frame())
        models = {"treecrowns (R18, 416x736)": MODEL, "R50 (320x320)": r50}
        figures = [{"model": title, **_measure(path, video, folder, rounds)} for title, path in models.items()]
    table = Table("model", "bare session, frames/s", "detect loop, frames/s", "share")
    for row in figures:
        table.add_row(row["model"], f"{row['bare_fps']:.2f}", f"{row['loop_fps']:.2f}", f"{row['share']:.3f}")
    Console().print(table)
    Console().print(f"written to {save('detect_loop', figures, before=before).name}")
    return 0


def _record_video(path: Path) -> Path:
    from retina_edge.detections import Detections
    from retina_edge.pipeline.result import Result

    flight = Flight(read_image(FOREST), frames=FRAMES)
    with VideoSink(path, fps=FPS) as sink:
        for frame in flight:
            sink.write(Result(frame, Detections.empty((), ())))
    return path


def _measure(model: Path, video: Path, folder: Path, rounds: int) -> dict[str, Any]:
    with Detector.load(model) as detector, VideoSource(video) as source:
        images, _ = letterbox_batch([next(iter(source)).image], detector.contract.input_size)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    _bare(session, images, 5)
    bare, loop = [], []
    for _ in range(rounds):
        bare.append(_bare(session, images, FRAMES))
        loop.append(_loop(model, video, folder))
    # Divide round by round, because the speed of the machine drifts.
    shares = [loop_fps / bare_fps for loop_fps, bare_fps in zip(loop, bare, strict=True)]
    return {
        "bare_fps": round(statistics.median(bare), 2),
        "loop_fps": round(statistics.median(loop), 2),
        "share": round(statistics.median(shares), 3),
        "least_share": round(min(shares), 3),
        "greatest_share": round(max(shares), 3),
        "frames": FRAMES,
        "rounds": rounds,
    }


def _bare(session: onnxruntime.InferenceSession, images: np.ndarray[Any, Any], runs: int) -> float:
    """Run the bare session and return its frames per second."""
    start = perf_counter()
    for _ in range(runs):
        session.run(None, {"images": images})
    return runs / (perf_counter() - start)


def _loop(model: Path, video: Path, folder: Path) -> float:
    """Run the whole loop and return its frames per second, from opening the video to closing the files.

    Loading the model is not timed, neither here nor for the bare session.
    """
    with Detector.load(model) as detector:
        start = perf_counter()
        with open_outputs(
            jsonl=folder / "out.jsonl",
            save=folder / "out.mp4",
            open_sink=lambda _: VideoSink(folder / "out.mp4", fps=FPS),
            strict=True,
        ) as outputs:
            pipeline = Pipeline(
                detector,
                {"video": lambda: VideoSource(video)},
                on_result=lambda _, result: outputs.write(result),
                on_end=lambda stream: outputs.end(stream.name),
                score=SCORE,
            )
            pipeline.run()
        seconds = perf_counter() - start
        assert pipeline.streams[0].detected == FRAMES
    return FRAMES / seconds


if __name__ == "__main__":
    raise SystemExit(main())
