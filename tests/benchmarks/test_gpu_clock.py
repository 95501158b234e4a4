"""The GPU's clock, on a GPU made up: work behind something longer, and what is said where that cannot be."""

from __future__ import annotations

import pytest

from benchmarks.gpu_clock import FLUSH_BYTES, LONGEST, WARM_UP, Stream, gpu_times, pycuda_stream

# Microseconds: of a launch on the host, of the kernel, of filling the block once.
LAUNCH, KERNEL, FLUSH = 10.0, 3.0, 100.0


class Gpu:
    """A stream in which work ends so long after it was put there, or after the work before it.

    Args:
        hiccup: the host stops for a millisecond in each of so many runs; 0 for never.
        launches: launches that the work consists of.
        waits: the work waits for its own end.
    """

    def __init__(self, *, hiccup: int = 0, launches: int = 1, waits: bool = False) -> None:
        self.host = self.free = 0.0
        self.flushes = self.runs = 0
        self._hiccup, self._launches, self._waits = hiccup, launches, waits

    def _put(self, microseconds: float) -> float:
        self.host += LAUNCH
        self.free = max(self.free, self.host) + microseconds
        return self.free

    def work(self) -> None:
        self.runs += 1
        if self._hiccup and self.runs % self._hiccup == 0:
            self.host += 1000
        for _ in range(self._launches):
            self._put(KERNEL)
            if self._waits:
                self.host = self.free

    def flush(self) -> None:
        self.flushes += 1
        self._put(FLUSH)

    def synchronize(self) -> None:
        self.host = max(self.host, self.free)

    def stream(self) -> Stream:
        return Stream(
            lambda: self._put(0.0),
            self.flush,
            lambda event: event <= self.host,
            lambda begun, ended: (ended - begun) / 1000,
            self.synchronize,
        )


def test_an_idle_stream_would_measure_the_launch() -> None:
    gpu = Gpu()
    begun = gpu.stream().record()
    gpu.work()
    assert gpu.stream().record() - begun == pytest.approx(2 * LAUNCH)


def test_behind_something_longer_the_kernel_is_measured() -> None:
    gpu = Gpu()
    found = gpu_times(gpu.stream(), gpu.work, runs=20)
    assert found.times.median == pytest.approx(KERNEL / 1000)
    assert not found.waits
    assert gpu.runs == WARM_UP + 20
    assert gpu.flushes == 20
    assert found.row()["caches"] == "cold"
    assert found.row()["waits_for_host"] is False


def test_many_launches_get_a_longer_piece_before_them() -> None:
    gpu = Gpu(launches=30)  # 300 µs of the host
    found = gpu_times(gpu.stream(), gpu.work, runs=10)
    assert found.times.median == pytest.approx(30 * KERNEL / 1000)
    assert not found.waits
    assert gpu.flushes == 10 * (1 + 4)


def test_runs_in_which_the_host_came_too_late_do_not_count() -> None:
    gpu = Gpu(hiccup=15)
    found = gpu_times(gpu.stream(), gpu.work, runs=30)
    assert found.times.rounds == 28
    assert found.times.p90 == pytest.approx(KERNEL / 1000)


def test_work_that_waits_says_so() -> None:
    gpu = Gpu(launches=3, waits=True)
    found = gpu_times(gpu.stream(), gpu.work, runs=5)
    assert found.waits
    assert found.times.rounds == 5
    assert found.times.median == pytest.approx((KERNEL + 2 * (LAUNCH + KERNEL) + LAUNCH) / 1000)
    assert gpu.flushes == 5 * (1 + 4 + 16 + 64)
    assert LONGEST == 64


def test_pycuda_s_stream_records_flushes_and_waits() -> None:
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
