"""Cost of the pipeline: four videos with a detector that takes no time, against bare decoding.

    python -m benchmarks.load

The pipeline also runs with frames kept for clips of events. No event happens, because files would wait for the writer,
which live streams do not.

Bare decoding calls OpenCV's ``VideoCapture.read`` again and again, in one thread for each video. The two run in turn on
four videos of different lengths, flights over the forest at 1280x720 in H.264. Requires ffmpeg, which encodes them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
from rich.console import Console
from rich.table import Table

from benchmarks.free_detector import FreeExecutor
from benchmarks.record import begin, save
from retina_edge.assets import FOREST
from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.clip_options import ClipOptions
from retina_edge.sinks.clip_sink import ClipSink
from retina_edge.sinks.outputs import QUEUE_CAPACITY
from retina_edge.sources.video_source import VideoSource

SIZE = (720, 1280)
FPS = 25
LENGTHS = (300, 360, 420, 480)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="runs of bare decoding and of the pipeline (default: 9)")
    args = parser.parse_args(argv)
    before = begin()
    with tempfile.TemporaryDirectory() as name:
        videos = {f"video{count}": write_video(Path(name, f"{count}.mp4"), count) for count in LENGTHS}
        figures = measure(videos, args.rounds)
    table = Table("bare, frames/s", "pipeline, frames/s", "share of bare", "with clips, share of the pipeline")
    table.add_row(*(str(figures[key]) for key in ("bare_fps", "pipeline_fps", "share", "clips_share")))
    Console().print(table)
    Console().print(f"written to {save('load', figures, before=before).name}")
    return 0


def write_video(path: Path, frames: int) -> Path:
    """Encode a flight over the forest with a number of frames, and return the path."""
    height, width = SIZE
    pan = f"loop=-1:1,setpts=N/{FPS}/TB,scale=-2:{height},crop={width}:{height}:x='mod(60*t,iw-{width})',format=yuv420p"
    command = ["ffmpeg", "-y", "-nostdin", "-loglevel", "error", "-i", str(FOREST), "-vf", pan, "-r", str(FPS)]
    subprocess.run([*command, "-frames:v", str(frames), "-c:v", "libx264", "-preset", "fast", str(path)], check=True)
    return path


def measure(videos: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Return the frames per second of bare decoding and of the pipeline, and the pipeline's share of bare decoding.

    The result also has the share that the pipeline with frames kept for clips has of the one without. The shares are
    computed for each round; the result holds their median, least and greatest values.
    """
    bare_decoding(videos)  # warm-up
    bare, piped, clips_shares = [], [], []
    for number in range(rounds):
        bare.append(bare_decoding(videos))
        piped.append(pipeline(videos))
        clips_shares.append(pipeline(videos, clips=True) / piped[-1])
        Console().print(f"{number + 1}/{rounds}: bare {bare[-1]:.0f}, pipeline {piped[-1]:.0f} frames per second")
    shares = [pipeline_fps / bare_fps for pipeline_fps, bare_fps in zip(piped, bare, strict=True)]
    return {
        "videos": len(videos),
        "size": list(SIZE),
        "frames": sum(LENGTHS),
        "rounds": rounds,
        "bare_fps": round(statistics.median(bare), 1),
        "pipeline_fps": round(statistics.median(piped), 1),
        "share": round(statistics.median(shares), 3),
        "least_share": round(min(shares), 3),
        "greatest_share": round(max(shares), 3),
        "clips_share": round(statistics.median(clips_shares), 3),
        "least_clips_share": round(min(clips_shares), 3),
        "greatest_clips_share": round(max(clips_shares), 3),
    }


def bare_decoding(videos: dict[str, Path]) -> float:
    """Decode all videos with OpenCV alone and return the frames per second."""
    counts = dict.fromkeys(videos, 0)

    def decode(name: str, video: Path) -> None:
        capture = cv2.VideoCapture(str(video))
        while capture.read()[0]:
            counts[name] += 1
        capture.release()

    threads = [threading.Thread(target=decode, args=item) for item in videos.items()]
    start = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts.values()) / (perf_counter() - start)


def pipeline(videos: dict[str, Path], *, clips: bool = False) -> float:
    """Run all videos through the pipeline, check that no frame is missing, and return the frames per second."""
    sources = {name: lambda video=video: VideoSource(video) for name, video in videos.items()}
    next_frame = dict.fromkeys(videos, 0)

    def on_result(stream: Any, result: Any) -> None:
        assert result.frame.index == next_frame[stream.name], "out of order"
        next_frame[stream.name] += 1
        if sink is not None:
            sink.write(result)

    with ExitStack() as stack:
        sink = None
        if clips:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            queued = BackgroundSink(ClipSink(ClipOptions(folder), videos), capacity=QUEUE_CAPACITY)
            sink = stack.enter_context(queued)
        detector = stack.enter_context(Detector(FreeExecutor(max_batch=len(videos))))
        streams = Pipeline(detector, sources, on_result=on_result)
        start = perf_counter()
        streams.run()
        seconds = perf_counter() - start
    assert sorted(next_frame.values()) == sorted(LENGTHS)
    return sum(next_frame.values()) / seconds


if __name__ == "__main__":
    raise SystemExit(main())
