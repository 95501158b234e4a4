"""How long a GPU takes for work that is shorter than launching it from Python.

On an idle stream the time between two events is the time of the launches. So something longer is put on the stream
first: zeros into a block of memory larger than the caches, which leaves them cold, too. The GPU is at it while Python
puts the first event, the work and the second event behind it; whether that went so is checked for every run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.record import Times

# Several times the second-level cache of any GPU, and a tenth of a millisecond of the fastest memory.
FLUSH_BYTES = 256 << 20
# So many times the block is filled before each run, until that is long enough.
LONGEST = 64
WARM_UP, MOST_LATE = 10, 0.1


@dataclass(frozen=True)
class Stream:
    """What is needed of torch's stream, or pycuda's.

    Attributes:
        record: puts an event on the stream and gives it.
        flush: fills ``FLUSH_BYTES`` of memory on the stream.
        reached: whether the GPU has come to an event.
        between: milliseconds from event to event.
        synchronize: waits for everything.
    """

    record: Callable[[], Any]
    flush: Callable[[], None]
    reached: Callable[[Any], bool]
    between: Callable[[Any, Any], float]
    synchronize: Callable[[], None]


@dataclass(frozen=True)
class GpuTimes:
    """What was measured.

    Attributes:
        times: of the GPU, with cold caches.
        waits: the GPU waited for the host on the way, because the work itself does, or its launches take too long.
    """

    times: Times
    waits: bool

    def row(self) -> dict[str, Any]:
        """As result files hold it."""
        return {**self.times.row(), "caches": "cold", "waits_for_host": self.waits}


def gpu_times(stream: Stream, work: Callable[[], object], *, runs: int) -> GpuTimes:
    """Times of what ``work`` puts on a stream.

    Args:
        stream: from ``torch_stream`` or ``pycuda_stream``.
        work: puts it there, or waits for it there, too.
        runs: counted ones.
    """
    for _ in range(WARM_UP):
        work()
    stream.synchronize()
    flushes, milliseconds = 1, list[float]()
    while flushes <= LONGEST:
        pairs = [_run(stream, work, flushes) for _ in range(runs)]
        stream.synchronize()
        milliseconds = [stream.between(begun, ended) for begun, ended, _ in pairs]
        in_time = [value for value, (_, _, late) in zip(milliseconds, pairs, strict=True) if not late]
        if len(in_time) >= (1 - MOST_LATE) * runs:
            return GpuTimes(Times.of(in_time), waits=False)
        flushes *= 4
    return GpuTimes(Times.of(milliseconds), waits=True)


def _run(stream: Stream, work: Callable[[], object], flushes: int) -> tuple[Any, Any, bool]:
    """Both events, and whether the GPU came to the first before the second was there."""
    stream.synchronize()
    for _ in range(flushes):
        stream.flush()
    begun = stream.record()
    work()
    ended = stream.record()
    return begun, ended, stream.reached(begun)


def torch_stream() -> Stream:
    """Torch's current stream."""
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
    """A stream of pycuda.

    Args:
        driver: from ``engines.core.cuda_context.primary_context``.
        stream: where the work goes.
        block: address of ``FLUSH_BYTES`` on the GPU.
    """
    return Stream(
        lambda: driver.Event().record(stream),
        lambda: driver.memset_d8_async(block, 0, FLUSH_BYTES, stream),
        lambda event: bool(event.query()),
        lambda begun, ended: float(begun.time_till(ended)),
        stream.synchronize,
    )
