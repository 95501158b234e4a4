"""Endurance of the pipeline: a detector slower than its camera, and a camera that fails again and again.

    python -m benchmarks.endurance

First, a detector that takes 30 ms runs for a minute on a source of 60 frames per second: results must not grow older.
Then an RTSP server is killed and restarted fifty times while a stream of another server continues: the lost stream must
come back, the other must never stop, and the numbers of threads and file descriptors and the memory must not grow.
Requires GStreamer's RTSP server and ffmpeg (tests/rtsp_server.py names the packages).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.free_detector import FreeExecutor
from benchmarks.load import write_video
from benchmarks.record import begin, save
from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sources.frames import Frame, Source
from retina_edge.sources.video_source import VideoSource
from tests.rtsp_server import RtspServer

PERIOD, RATE = 0.03, 60.0
# Parts of the measurement; the ages of results in the first part are compared with those in the last.
PARTS = 3
# Reconnects after which the process should no longer grow.
WARM = 10
# Seconds that the server is down.
DOWN_SECONDS = 0.5


class Paced(Source):
    """A camera that delivers black frames at a steady rate."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.live = "paced", True

    def __iter__(self) -> Iterator[Frame]:
        image = np.zeros((720, 1280, 3), np.uint8)
        start, index = time.monotonic(), 0
        while not self._interrupted.is_set():
            time.sleep(max(0.0, start + index / RATE - time.monotonic()))
            yield Frame(image, index, None, self.name)
            index += 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds to run the slow detector (default: 60)")
    parser.add_argument("--reconnects", type=int, default=50, help="restarts of the RTSP server (default: 50)")
    args = parser.parse_args(argv)
    before = begin()
    figures: dict[str, Any] = {"slow_detector": slow_detector(args.seconds)}
    Console().print(figures)
    figures["reconnects"] = reconnects(args.reconnects)
    Console().print(figures)
    Console().print(f"written to {save('endurance', figures, before=before).name}")
    return 0


@contextmanager
def running(
    sources: Mapping[str, Callable[[], Source]], on_result: Callable[[Stream, Result], None], *, period: float
) -> Iterator[Pipeline]:
    """Run a pipeline in another thread, with a detector that takes ``period`` seconds for a batch."""
    failures: list[BaseException] = []
    with Detector(FreeExecutor(seconds=period)) as detector:
        pipeline = Pipeline(detector, sources, on_result=on_result)

        def run() -> None:
            try:
                pipeline.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield pipeline
        finally:
            pipeline.stop()
            thread.join()
    if failures:
        raise failures[0]


def slow_detector(seconds: float) -> dict[str, Any]:
    """Run a slow detector; return the ages of results, in milliseconds since capture, and the counts of frames."""
    ages: list[float] = []
    with running(
        {"camera": Paced}, lambda _, result: ages.append(1000 * (result.age_at_output or 0)), period=PERIOD
    ) as pipeline:
        time.sleep(seconds)
    status = pipeline.streams[0].status()
    parts = np.array_split(np.array(ages), PARTS)
    return {
        "seconds": seconds,
        "detector_ms": 1000 * PERIOD,
        "camera_fps": RATE,
        **{name: _ages(part) for name, part in (("first_third", parts[0]), ("last_third", parts[-1]))},
        "late": round(float((np.array(ages) > 2000 * PERIOD).mean()), 5),
        "captured": status.captured,
        "detected": status.detected,
        "dropped": status.dropped,
        # A frame may still wait in the mailbox at the end.
        "unaccounted": status.captured - status.detected - status.dropped - status.expired - status.failed,
    }


def _ages(part: np.ndarray[Any, Any]) -> dict[str, float]:
    p50, p95, most = (round(float(value), 1) for value in np.percentile(part, (50, 95, 100)))
    return {"p50_ms": p50, "p95_ms": p95, "max_ms": most}


def reconnects(count: int) -> dict[str, Any]:
    """Restart one of two cameras again and again.

    Returns:
        The seconds until its stream is back, the longest pause of the other stream, and the resources of the process.
    """
    result_times: list[float] = []

    def on_result(stream: Stream, _result: Result) -> None:
        if stream.name == "steady":
            result_times.append(time.monotonic())

    back, resources = [], []
    with tempfile.TemporaryDirectory() as name:
        video = write_video(Path(name, "video.mp4"), 50)
        with RtspServer({"/a": video}) as shaky, RtspServer({"/b": video}) as steady:
            urls = {"shaky": shaky.url("/a"), "steady": steady.url("/b")}
            sources = {name: lambda url=url: VideoSource(url) for name, url in urls.items()}
            with running(sources, on_result, period=0.0) as pipeline:
                stream = pipeline.streams[0]
                _wait(lambda: all(stream.detected > 10 for stream in pipeline.streams))
                began = len(result_times)
                for number in range(count):
                    shaky.kill()
                    _wait(lambda: stream.status().state == "offline")
                    time.sleep(DOWN_SECONDS)
                    shaky.start()
                    start = time.monotonic()
                    _wait(partial(_has_more, stream, stream.detected))
                    back.append(time.monotonic() - start)
                    resources.append(_resources())
                    if (number + 1) % 10 == 0:
                        Console().print(f"{number + 1}/{count}: back after {back[-1]:.2f} s, uses {resources[-1]}")
                pauses = np.diff(result_times[began:])
    return {
        "reconnects": count,
        "back_p50_s": round(float(np.median(back)), 2),
        "back_max_s": round(max(back), 2),
        "longest_pause_of_the_other_s": round(float(pauses.max()), 2),
        "warm_after": min(WARM, count),
        "warm": resources[min(WARM, count) - 1],
        "end": resources[-1],
    }


def _has_more(stream: Stream, detected: int) -> bool:
    return stream.detected > detected


def _resources() -> dict[str, int]:
    """Count the threads, the file descriptors and the MiB of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") // 2**20
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "MiB": memory,
    }


def _wait(reached: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError(f"stream: expected another state within {seconds:g} s")
        time.sleep(0.005)


if __name__ == "__main__":
    raise SystemExit(main())
