"""Timing of GPU work, on a simulated GPU: short work behind a longer piece, and work for which that is impossible."""

from __future__ import annotations

import pytest

from benchmarks.gpu_clock import FLUSH_BYTES, MAX_FLUSHES, WARM_UP, Stream, gpu_times, pycuda_stream

# Microseconds that a launch takes on the host, that the kernel takes, and that filling the block once takes.
LAUNCH, KERNEL, FLUSH = 10.0, 3.0, 100.0


class Gpu:
    """A simulated GPU with one stream: work starts when it is enqueued, or when the work before it has ended.

    Args:
        hiccup: the host pauses for a millisecond in every N-th run; 0 for never.
        launches: number of launches in the work.
        waits: the work waits on the host for each launch to end.
    """

    def __init__(self, *, hiccup: int = 0, launches: int = 1, waits: bool = False) -> None:
        self.host = self.free = 0.0
        self.flushes = self.runs = 0
        self._hiccup, self._launches, self._waits = hiccup, launches, waits

    def _enqueue(self, microseconds: float) -> float:
        self.host += LAUNCH
        self.free = max(self.free, self.host) + microseconds
        return self.free

    def work(self) -> None:
        self.runs += 1
        if self._hiccup and self.runs % self._hiccup == 0:
            self.host += 1000
        for _ in range(self._launches):
            self._enqueue(KERNEL)
            if self._waits:
                self.host = self.free

    def flush(self) -> None:
        self.flushes += 1
        self._enqueue(FLUSH)

    def synchronize(self) -> None:
        self.host = max(self.host, self.free)

    def stream(self) -> Stream:
        return Stream(
            lambda: self._enqueue(0.0),
            self.flush,
            lambda event: event <= self.host,
            lambda begun, ended: (ended - begun) / 1000,
            self.synchronize,
        )


def test_on_an_idle_stream_events_would_measure_the_launches() -> None:
    gpu = Gpu()
    begun = gpu.stream().record()
    gpu.work()
    assert gpu.stream().record() - begun == pytest.approx(2 * LAUNCH)


def test_behind_a_longer_piece_of_work_the_kernel_is_measured() -> None:
    gpu = Gpu()
    measured = gpu_times(gpu.stream(), gpu.work, runs=20)
    assert measured.times.median == pytest.approx(KERNEL / 1000)
    assert not measured.waits
    assert gpu.runs == WARM_UP + 20
    assert gpu.flushes == 20
    assert measured.row()["caches"] == "cold"
    assert measured.row()["waits_for_host"] is False


def test_many_launches_need_more_fills_before_them() -> None:
    gpu = Gpu(launches=30)  # 300 µs on the host
    measured = gpu_times(gpu.stream(), gpu.work, runs=10)
    assert measured.times.median == pytest.approx(30 * KERNEL / 1000)
    assert not measured.waits
    assert gpu.flushes == 10 * (1 + 4)


def test_runs_in_which_the_host_was_late_do_not_count() -> None:
    gpu = Gpu(hiccup=15)
    measured = gpu_times(gpu.stream(), gpu.work, runs=30)
    assert measured.times.rounds == 28
    assert measured.times.p90 == pytest.approx(KERNEL / 1000)


def test_work_that_waits_for_the_gpu_is_reported() -> None:
    gpu = Gpu(launches=3, waits=True)
    measured = gpu_times(gpu.stream(), gpu.work, runs=5)
    assert measured.waits
    assert measured.times.rounds == 5
    assert measured.times.median == pytest.approx((KERNEL + 2 * (LAUNCH + KERNEL) + LAUNCH) / 1000)
    assert gpu.flushes == 5 * (1 + 4 + 16 + 64)
    assert MAX_FLUSHES == 64


def test_the_stream_of_pycuda_records_flushes_and_waits() -> None:
    calls: list[tuple[object, ...]] = []

    class Recorded:
        def record(self, stream: object) -> Recorded:
            calls.append(("record", stream))
            return self

        def query(self) -> bool:
            return True

        def time_till(self, other: Recorded) -> float:
            assert other is not self
            return 0.5

    class Driver:
        Event = Recorded

        @staticmethod
        def memset_d8_async(address: int, value: int, count: int, stream: object) -> None:
            calls.append(("fill", address, value, count, stream))

    class Queue:
        @staticmethod
        def synchronize() -> None:
            calls.append(("wait",))

    stream = pycuda_stream(Driver, queue := Queue(), 1 << 20)
    begun, ended = stream.record(), stream.record()
    stream.flush()
    stream.synchronize()
    assert stream.reached(begun)
    assert stream.between(begun, ended) == 0.5
    assert calls == [("record", queue), ("record", queue), ("fill", 1 << 20, 0, FLUSH_BYTES, queue), ("wait",)]
