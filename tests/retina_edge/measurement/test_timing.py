"""Latency, stages and throughput, measured on executors whose speed is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.executor import GPU, NETWORK, PREPROCESS, HostTicket, RawDetections, Ticket
from engines.core.frame_region import Frame
from retina_edge.detector import Detector
from retina_edge.measurement.timing import (
    FrameCycle,
    Latency,
    Throughput,
    host_overhead,
    measure_in_turn,
    measure_latency,
    measure_throughput,
    warm_up,
    warm_up_batches,
)
from tests.stand_in import StandIn, contract, patch_frame

FRAMES = [patch_frame((40, 60), (n, n)) for n in range(5)]


def test_percentiles_of_known_measurements() -> None:
    latency = Latency.of(list(range(101)))
    assert (latency.runs, latency.mean, latency.p50, latency.p90, latency.p99) == (101, 50, 50, 90, 99)
    assert latency.jitter == 99 / 50


@pytest.mark.parametrize(
    ("runs", "p90", "p99"),
    [(3, False, False), (9, False, False), (10, True, False), (99, True, False), (100, True, True)],
)
def test_percentiles_are_none_with_too_few_runs(runs: int, *, p90: bool, p99: bool) -> None:
    latency = Latency.of(list(range(runs)))
    assert (latency.p90 is not None, latency.p99 is not None, latency.jitter is not None) == (p90, p99, p99)
    assert latency.p50 == (runs - 1) / 2


def test_batches_repeat_the_frames() -> None:
    batches = FrameCycle(FRAMES, 3)
    taken = [[next(i for i, f in enumerate(FRAMES) if f is frame) for frame in batches.next()] for _ in range(3)]
    assert taken == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]
    assert len(FrameCycle(FRAMES[:1], 4).next()) == 4


class Slow(StandIn):
    """An executor that sleeps for 10 ms instead of computing."""

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        time.sleep(0.01)
        return super().infer(images)


def test_latency_covers_whole_batches_and_stages_come_from_the_executor() -> None:
    slow = Detector(Slow(contract()))
    whole = measure_latency(slow, FrameCycle(FRAMES, 2), 0.1)
    assert 3 <= whole.runs <= 10
    assert whole.p50 >= 10
    stages, whole = measure_in_turn(slow, FrameCycle(FRAMES, 2), 0.0)
    assert list(stages) == [PREPROCESS, NETWORK]
    assert stages[NETWORK].runs == whole.runs == 3
    assert stages[PREPROCESS].p50 < 10 <= stages[NETWORK].p50
    assert whole.p50 >= 10
    assert host_overhead(whole, stages) is None


class Recording(StandIn):
    """An executor that records its calls.

    Attributes:
        calls_made: name of each call, and its number of frames.
        now: submissions in flight.
        most: largest number of submissions that were in flight at once.
    """

    def __init__(self) -> None:
        super().__init__(contract())
        self.calls_made: list[tuple[str, int]] = []
        self.now = self.most = 0

    def submit(self, frames: Sequence[Frame]) -> HostTicket:
        self.calls_made.append(("submit", len(frames)))
        self.now += 1
        self.most = max(self.most, self.now)
        return super().submit(frames)

    def result(self, ticket: Ticket) -> RawDetections:
        self.now -= 1
        return super().result(ticket)

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        self.calls_made.append(("measure", len(frames)))
        return {NETWORK: 1.0, GPU: 1.0}


def test_stages_and_latency_are_measured_in_turn() -> None:
    executor = Recording()
    measure_in_turn(Detector(executor), FrameCycle(FRAMES, 2), 0.0)
    assert executor.calls_made == [("measure", 2), ("submit", 2)] * 3


class Recorder:
    """An executor that does not run on the host and has a CUDA graph for each number of frames."""

    def __init__(self, batch: int | None) -> None:
        self.inner, self.batch, self.max_batch = Recording(), batch, batch
        self.contract, self.submit, self.result = self.inner.contract, self.inner.submit, self.inner.result


@pytest.mark.parametrize(("batch", "sizes"), [(None, [1, 1, 1, 2, 2, 2, 3, 3, 3]), (3, [])])
def test_every_batch_size_with_its_own_graph_is_warmed_up_in_every_slot(batch: int | None, sizes: list[int]) -> None:
    executor = Recorder(batch)
    warm_up_batches(Detector(executor), FRAMES[:2], 3, in_flight=3)  # type: ignore[arg-type]
    assert [count for _, count in executor.inner.calls_made] == sizes
    assert executor.inner.most == (3 if sizes else 0)


def test_executors_on_the_host_need_no_warm_up_of_batch_sizes() -> None:
    executor = Recording()
    warm_up_batches(Detector(executor), FRAMES, 3)
    assert executor.calls_made == []


def test_host_overhead_is_relative_to_the_time_on_the_gpu() -> None:
    assert host_overhead(Latency.of([2.2]), {GPU: Latency.of([2.0])}) == pytest.approx(0.1)


@pytest.mark.parametrize("streams", [1, 3])
def test_every_submitted_frame_is_counted_once(streams: int) -> None:
    executor = StandIn(contract())
    throughput = measure_throughput(Detector(executor), FRAMES, batch=2, seconds=0.05, streams=streams)
    assert throughput.frames == sum(shape[0] for shape in executor.calls)
    assert throughput.frames >= 6 * streams
    assert throughput.seconds >= 0.05
    assert (throughput.streams, throughput.in_flight) == (streams, 2)
    assert Throughput(30, 1.5, 1, 2).frames_per_second == 20


def test_the_given_number_of_submissions_is_in_flight() -> None:
    executor = Recording()
    measure_throughput(Detector(executor), FRAMES, batch=1, seconds=0.02, in_flight=3)
    assert (executor.most, executor.now) == (3, 0)


def test_an_error_in_one_stream_ends_all_streams() -> None:
    broken = Detector(StandIn(contract(), fail_at=4, error=RuntimeError("no more")))
    with pytest.raises(RuntimeError, match="no more"):
        measure_throughput(broken, FRAMES, batch=1, seconds=60, streams=3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def test_the_warm_up_fills_all_slots_and_lasts_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retina_edge.measurement.timing.WARM_UP_SECONDS", 0.05)
    start = time.perf_counter()
    executor = Recording()
    warm_up(Detector(executor), FrameCycle(FRAMES, 1), in_flight=5)
    assert 0.05 <= time.perf_counter() - start < 5
    assert executor.most == 5
