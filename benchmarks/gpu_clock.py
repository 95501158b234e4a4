"""Timing of GPU work that is shorter than its launch from Python.

On an idle stream, the time between two events is the time that the launches take. So a longer piece of work goes first:
a block of memory larger than the caches is filled with zeros, which also leaves the caches cold. While the GPU fills
the block, Python enqueues the first event, the work and the second event. A run in which Python was too slow does not
count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.record import Times

# Several times the second-level cache of any GPU; the fastest memory takes a tenth of a millisecond for it.
FLUSH_BYTES = 256 << 20
# Largest number of fills before a run.
MAX_FLUSHES = 64
# Uncounted runs, and the largest share of runs that may be late.
WARM_UP, MAX_LATE = 10, 0.1


@dataclass(frozen=True)
class Stream:
    """The functions of a CUDA stream, torch's or pycuda's, that timing needs.

    Attributes:
        record: function that records an event on the stream and returns the event.
        flush: function that fills ``FLUSH_BYTES`` of memory on the stream.
        reached: function that returns True if the GPU has reached an event.
        between: function that returns the milliseconds between two events.
        synchronize: function that waits for all work on the stream.
    """

    record: Callable[[], Any]
    flush: Callable[[], None]
    reached: Callable[[Any], bool]
    between: Callable[[Any, Any], float]
    synchronize: Callable[[], None]


@dataclass(frozen=True)
class GpuTimes:
    """The times of GPU work.

    Attributes:
        times: times on the GPU, with cold caches.
        waits: True if the times include waiting for the host, because the work itself waits for the GPU, or because its
            launches take too long.
    """

    times: Times
    waits: bool

    def row(self) -> dict[str, Any]:
        """Return the times as a row of a result file."""
        return {**self.times.row(), "caches": "cold", "waits_for_host": self.waits}


def gpu_times(stream: Stream, work: Callable[[], object], *, runs: int) -> GpuTimes:
    """Measure the work that a function enqueues on a stream.

    Args:
        stream: a stream from ``torch_stream`` or ``pycuda_stream``.
        work: function that enqueues the work; it may also wait for the work.
        runs: number of counted runs.
    """
    for _ in range(WARM_UP):
        work()
    stream.synchronize()
    flushes, milliseconds = 1, list[float]()
    while flushes <= MAX_FLUSHES:
        pairs = [_run(stream, work, flushes) for _ in range(runs)]
        stream.synchronize()
        milliseconds = [stream.between(begun, ended) for begun, ended, _ in pairs]
        in_time = [value for value, (_, _, late) in zip(milliseconds, pairs, strict=True) if not late]
        if len(in_time) >= (1 - MAX_LATE) * runs:
            return GpuTimes(Times.of(in_time), waits=False)
        flushes *= 4
    return GpuTimes(Times.of(milliseconds), waits=True)


def _run(stream: Stream, work: Callable[[], object], flushes: int) -> tuple[Any, Any, bool]:
    """Return both events, and True if the host was late: the GPU reached the first before the second was enqueued."""
    stream.synchronize()
    for _ in range(flushes):
        stream.flush()
    begun = stream.record()
    work()
    ended = stream.record()
    return begun, ended, stream.reached(begun)


def torch_stream() -> Stream:
    """Return torch's current stream."""
    import torch

    block = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def record() -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def flush() -> None:
        block.zero_()

    return Stream(
        record,
        flush,
        lambda event: bool(event.query()),
        lambda begun, ended: float(begun.elapsed_time(ended)),
        torch.cuda.synchronize,
    )


def pycuda_stream(driver: Any, stream: Any, block: int) -> Stream:
    """Return a stream of pycuda.

    Args:
        driver: driver module from ``engines.core.cuda_context.primary_context``.
        stream: pycuda's stream, on which the work is enqueued.
        block: address of ``FLUSH_BYTES`` of memory on the GPU.
    """
    return Stream(
        lambda: driver.Event().record(stream),
        lambda: driver.memset_d8_async(block, 0, FLUSH_BYTES, stream),
        lambda event: bool(event.query()),
        lambda begun, ended: float(begun.time_till(ended)),
        stream.synchronize,
    )
