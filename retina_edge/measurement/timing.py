"""Latency, stages and throughput of a detector by the clock."""

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
WARM_UP_SECONDS, WARM_UP_RUNS = 1.0, 3
# However slow a run is: of fewer there is no median.
MIN_RUNS = 3
# Of fewer runs these percentiles lie between the two slowest, and say no more than those.
MIN_RUNS_FOR_P90, MIN_RUNS_FOR_P99 = 10, 100
# Submissions on their way, where throughput is measured.
IN_FLIGHT = 2


@dataclass(frozen=True)
class Latency:
    """Milliseconds of many runs.

    Attributes:
        runs: how many.
        mean, p50, p90, p99: of them; percentiles are interpolated linearly, as NumPy does. None where the runs are
            too few for one.
    """

    runs: int
    mean: float
    p50: float
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Latency:
        """Of at least one measurement."""
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
        """p99 as a multiple of p50."""
        return None if self.p99 is None else self.p99 / self.p50


@dataclass(frozen=True)
class Throughput:
    """What went through with several submissions on their way.

    Attributes:
        frames: detected.
        seconds: from the first submission to the last result.
        streams: threads that submitted, each as a camera would.
        in_flight: submissions each of them had on their way.
    """

    frames: int
    seconds: float
    streams: int
    in_flight: int

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds


class FrameCycle:
    """Batch after batch of the frames given, over and over."""

    def __init__(self, frames: Frames, batch: int) -> None:
        self._frames, self._batch, self._next = frames, batch, 0

    def next(self) -> list[npt.NDArray[np.uint8]]:
        """The next batch."""
        chosen = [self._frames[(self._next + i) % len(self._frames)] for i in range(self._batch)]
        self._next += self._batch
        return chosen


def warm_up(detector: Detector, rounds: FrameCycle, *, in_flight: int = IN_FLIGHT) -> None:
    """Runs what is slow only at first: memory, CUDA graphs in each of the slots, clocks."""
    _run_at_once(detector, rounds, in_flight)
    start, runs = perf_counter(), 0
    while runs < WARM_UP_RUNS or perf_counter() - start < WARM_UP_SECONDS:
        detector(rounds.next())
        detector.executor.measure(rounds.next())
        runs += 1


def warm_up_batches(detector: Detector, frames: Frames, batch: int, *, in_flight: int = IN_FLIGHT) -> None:
    """Runs every number of frames up to a batch, each in all of the slots: a CUDA graph is of one batch size.

    Nothing is recorded where the batch is fixed, and partial ones are padded, or where the host runs the network.
    """
    if detector.executor.batch is None and not isinstance(detector.executor, HostExecutor):
        for size in range(1, batch + 1):
            _run_at_once(detector, FrameCycle(frames, size), in_flight)


def measure_in_turn(detector: Detector, rounds: FrameCycle, seconds: float) -> tuple[dict[str, Latency], Latency]:
    """Each stage the executor knows (see ``Executor.measure``), and whole batches as ``measure_latency`` has them.

    In turn, so that both meet the same clocks and the same heat: the host's overhead is their difference.
    """
    found: dict[str, list[float]] = {}

    def run() -> float:
        for stage, milliseconds in detector.executor.measure(rounds.next()).items():
            found.setdefault(stage, []).append(milliseconds)
        return _whole(detector, rounds)

    whole = _until(seconds, run)
    return {stage: Latency.of(values) for stage, values in found.items()}, Latency.of(whole)


def measure_latency(detector: Detector, rounds: FrameCycle, seconds: float) -> Latency:
    """Of one batch at a time, from frames in host memory to detections in frame pixels."""
    return Latency.of(_until(seconds, lambda: _whole(detector, rounds)))


def measure_throughput(
    detector: Detector, frames: Frames, *, batch: int, seconds: float, streams: int = 1, in_flight: int = IN_FLIGHT
) -> Throughput:
    """Of several threads that each keep several batches on their way.

    Raises: what the detector raises, in whichever thread.
    """
    counts = [0] * streams
    errors: list[BaseException] = []
    start = perf_counter()

    def work(stream: int) -> None:
        try:
            rounds, tickets = FrameCycle(frames, batch), deque[DetectionTicket[list[Detections]]]()
            while not errors and (perf_counter() - start < seconds or counts[stream] < MIN_RUNS * batch):
                tickets.append(detector.submit(rounds.next()))
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
    except BaseException as error:  # Ctrl-C: they end, too
        errors.append(error)
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return Throughput(sum(counts), perf_counter() - start, streams, in_flight)


def host_overhead(latency: Latency, stages: dict[str, Latency]) -> float | None:
    """What the host adds to the GPU's time, as a share of it: medians; None without a GPU's clock."""
    return latency.p50 / stages[GPU].p50 - 1 if GPU in stages else None


def _whole(detector: Detector, rounds: FrameCycle) -> float:
    batch = rounds.next()
    start = perf_counter()
    detector(batch)
    return 1000 * (perf_counter() - start)


def _run_at_once(detector: Detector, rounds: FrameCycle, in_flight: int) -> None:
    for ticket in [detector.submit(rounds.next()) for _ in range(in_flight)]:
        detector.result(ticket)


def _until(seconds: float, run: Callable[[], T]) -> list[T]:
    found: list[T] = []
    start = perf_counter()
    while len(found) < MIN_RUNS or perf_counter() - start < seconds:
        found.append(run())
    return found
