"""Measurements of a detector: latency, stages and throughput."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engines.core.executor import GPU, HostExecutor
from retina_edge.detections import Detections
from retina_edge.detector import DetectionTicket, Detector

T = TypeVar("T")
Frames = Sequence[npt.NDArray[np.uint8]]
# A warm-up lasts at least this many seconds, and has at least this many runs.
WARM_UP_SECONDS, WARM_UP_RUNS = 1.0, 3
# Minimum number of runs, even if they are slow: a median of fewer runs says little.
MIN_RUNS = 3
# With fewer runs, these percentiles would lie between the two slowest runs and add no information.
MIN_RUNS_FOR_P90, MIN_RUNS_FOR_P99 = 10, 100
# Submissions that each stream keeps in flight while throughput is measured.
IN_FLIGHT = 2


@dataclass(frozen=True)
class Latency:
    """Statistics of the latency of many runs, in milliseconds.

    Attributes:
        runs: number of runs.
        mean: arithmetic mean.
        p50, p90, p99: percentiles, interpolated linearly as in NumPy; None if there are too few runs for a percentile.

    Examples:
        >>> Latency.of([10.0, 12.0, 11.0])
        Latency(runs=3, mean=11.0, p50=11.0, p90=None, p99=None)
    """

    runs: int
    mean: float
    p50: float
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """Return the statistics of at least one measurement in milliseconds."""
        runs = len(milliseconds)
        p50, p90, p99 = map(float, np.percentile(milliseconds, (50, 90, 99)))
        return cls(
            runs,
            float(np.mean(milliseconds)),
            p50,
            p90 if runs >= MIN_RUNS_FOR_P90 else None,
            p99 if runs >= MIN_RUNS_FOR_P99 else None,
        )

    @property
    def jitter(self) -> float | None:
        """Ratio of p99 to p50; None if there are too few runs for p99."""
        return None if self.p99 is None else self.p99 / self.p50


@dataclass(frozen=True)
class Throughput:
    """Throughput with several submissions in flight.

    Attributes:
        frames: number of frames that were detected.
        seconds: time from the first submission to the last result.
        streams: number of threads that submitted, each like a camera.
        in_flight: submissions that each thread kept in flight.

    Examples:
        >>> Throughput(frames=90, seconds=1.5, streams=1, in_flight=2).frames_per_second
        60.0
    """

    frames: int
    seconds: float
    streams: int
    in_flight: int

    @property
    def frames_per_second(self) -> float:
        """Frames per second of all streams together."""
        return self.frames / self.seconds


class FrameCycle:
    """An endless series of batches that repeats the given frames.

    Args:
        frames: the frames.
        batch: number of frames in a batch.

    Examples:
        >>> frames = [np.full((2, 2, 3), value, np.uint8) for value in range(3)]
        >>> cycle = FrameCycle(frames, batch=2)
        >>> [[int(frame[0, 0, 0]) for frame in cycle.next()] for _ in range(3)]
        [[0, 1], [2, 0], [1, 2]]
    """

    def __init__(self, frames: Frames, batch: int) -> None:
        self._frames, self._batch, self._next = frames, batch, 0

    def next(self) -> list[npt.NDArray[np.uint8]]:
        """Return the next batch."""
        chosen = [self._frames[(self._next + i) % len(self._frames)] for i in range(self._batch)]
        self._next += self._batch
        return chosen


def warm_up(detector: Detector, batches: FrameCycle, *, in_flight: int = IN_FLIGHT) -> None:
    """Run the detector until memory is allocated, each slot has its CUDA graph, and the clocks have risen.

    Args:
        detector: the detector.
        batches: batches to run.
        in_flight: submissions that the measurement keeps in flight.
    """
    _run_at_once(detector, batches, in_flight)
    start, runs = perf_counter(), 0
    while runs < WARM_UP_RUNS or perf_counter() - start < WARM_UP_SECONDS:
        detector(batches.next())
        detector.executor.measure(batches.next())
        runs += 1


def warm_up_batches(detector: Detector, frames: Frames, batch: int, *, in_flight: int = IN_FLIGHT) -> None:
    """Run batches of 1 to ``batch`` frames in all slots, because each batch size has its own CUDA graph.

    Do nothing if the model has a fixed batch size, to which partial batches are padded, or if the network runs on the
    host.

    Args:
        detector: the detector.
        frames: frames to run.
        batch: largest number of frames in a batch.
        in_flight: submissions that the measurement keeps in flight.
    """
    if detector.executor.batch is None and not isinstance(detector.executor, HostExecutor):
        for size in range(1, batch + 1):
            _run_at_once(detector, FrameCycle(frames, size), in_flight)


def measure_in_turn(detector: Detector, batches: FrameCycle, seconds: float) -> tuple[dict[str, Latency], Latency]:
    """Measure the stages of the executor and whole batches, in turn.

    Both then run at the same clocks and temperatures, so that their difference is the overhead of the host.

    Args:
        detector: the detector.
        batches: batches to run.
        seconds: duration of the measurement; slow batches may extend it.

    Returns:
        The latency of each stage (see ``Executor.measure``), and the latency of whole batches (see
        ``measure_latency``).
    """
    stages: dict[str, list[float]] = {}

    def run() -> float:
        for stage, milliseconds in detector.executor.measure(batches.next()).items():
            stages.setdefault(stage, []).append(milliseconds)
        return _whole(detector, batches)

    whole = _until(seconds, run)
    return {stage: Latency.of(values) for stage, values in stages.items()}, Latency.of(whole)


def measure_latency(detector: Detector, batches: FrameCycle, seconds: float) -> Latency:
    """Measure single batches, one after the other, from frames in host memory to detections in frame pixels."""
    return Latency.of(_until(seconds, lambda: _whole(detector, batches)))


def measure_throughput(
    detector: Detector, frames: Frames, *, batch: int, seconds: float, streams: int = 1, in_flight: int = IN_FLIGHT
) -> Throughput:
    """Measure the throughput of several threads that each keep several batches in flight.

    An error of the detector in any of the threads is raised here.

    Args:
        detector: the detector.
        frames: frames to detect in, which are repeated.
        batch: number of frames in a batch.
        seconds: duration of the measurement; slow batches may extend it.
        streams: number of threads.
        in_flight: submissions that each thread keeps in flight.
    """
    counts = [0] * streams
    errors: list[BaseException] = []
    start = perf_counter()

    def work(stream: int) -> None:
        try:
            batches, tickets = FrameCycle(frames, batch), deque[DetectionTicket[list[Detections]]]()
            while not errors and (perf_counter() - start < seconds or counts[stream] < MIN_RUNS * batch):
                tickets.append(detector.submit(batches.next()))
                if len(tickets) == in_flight:
                    counts[stream] += len(detector.result(tickets.popleft()))
            for ticket in tickets:
                counts[stream] += len(detector.result(ticket))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(stream,), name=f"stream {stream}") for stream in range(streams)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C ends the threads, too
        errors.append(error)
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return Throughput(sum(counts), perf_counter() - start, streams, in_flight)


def host_overhead(latency: Latency, stages: dict[str, Latency]) -> float | None:
    """Return the time that the host adds, as a share of the time on the GPU; None without a GPU.

    Args:
        latency: latency of whole batches.
        stages: latency of each stage; the medians are compared.

    Examples:
        >>> overhead = host_overhead(Latency.of([11.0]), {GPU: Latency.of([10.0])})
        >>> round(overhead, 3)
        0.1
    """
    return latency.p50 / stages[GPU].p50 - 1 if GPU in stages else None


def _whole(detector: Detector, batches: FrameCycle) -> float:
    """Return the milliseconds that a batch takes from frames to detections."""
    batch = batches.next()
    start = perf_counter()
    detector(batch)
    return 1000 * (perf_counter() - start)


def _run_at_once(detector: Detector, batches: FrameCycle, in_flight: int) -> None:
    """Submit several batches before fetching their results, so that each batch uses its own slot."""
    for ticket in [detector.submit(batches.next()) for _ in range(in_flight)]:
        detector.result(ticket)


def _until(seconds: float, run: Callable[[], T]) -> list[T]:
    """Call a function at least ``MIN_RUNS`` times, until the given seconds have passed, and return its results."""
    results: list[T] = []
    start = perf_counter()
    while len(results) < MIN_RUNS or perf_counter() - start < seconds:
        results.append(run())
    return results
