"""What is measured by the clock, on an executor whose clock the tests know."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.executor import GPU, NETWORK, PREPROCESS, HostTicket, RawDetections, Ticket
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


def test_percentiles_are_of_the_measurements() -> None:
    latency = Latency.of(list(range(101)))
    assert (latency.runs, latency.mean, latency.p50, latency.p90, latency.p99) == (101, 50, 50, 90, 99)
    assert latency.jitter == 99 / 50


@pytest.mark.parametrize(
    ("runs", "p90", "p99"),
    [(3, False, False), (9, False, False), (10, True, False), (99, True, False), (100, True, True)],
)
def test_percentiles_need_runs(runs: int, *, p90: bool, p99: bool) -> None:
    latency = Latency.of(list(range(runs)))
    assert (latency.p90 is not None, latency.p99 is not None, latency.jitter is not None) == (p90, p99, p99)
    assert latency.p50 == (runs - 1) / 2


def test_batches_go_round() -> None:
    rounds = FrameCycle(FRAMES, 3)
    taken = [[next(i for i, f in enumerate(FRAMES) if f is frame) for frame in rounds.next()] for _ in range(3)]
    assert taken == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]
    assert len(FrameCycle(FRAMES[:1], 4).next()) == 4


class Slow(StandIn):
    """Sleeps where an executor on a CPU works."""

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        time.sleep(0.01)
        return super().infer(images)


def test_latency_is_of_whole_batches_and_stages_are_of_the_executor() -> None:
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
    """Writes down what it is asked for, and how many frames at a time."""

    def __init__(self) -> None:
        super().__init__(contract())
        self.asked: list[tuple[str, int]] = []
        self.now = self.most = 0

    def submit(self, frames: Sequence[npt.NDArray[np.uint8]]) -> HostTicket:
        self.asked.append(("submit", len(frames)))
        self.now += 1
        self.most = max(self.most, self.now)
        return super().submit(frames)

    def result(self, ticket: Ticket) -> RawDetections:
        self.now -= 1
        return super().result(ticket)

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        self.asked.append(("measure", len(frames)))
        return {NETWORK: 1.0, GPU: 1.0}


def test_stages_and_latency_are_measured_in_turn() -> None:
    executor = Recording()
    measure_in_turn(Detector(executor), FrameCycle(FRAMES, 2), 0.0)
    assert executor.asked == [("measure", 2), ("submit", 2)] * 3


class Recorder:
    """An executor that is none of the host's: it has a CUDA graph for each number of frames."""

    def __init__(self, batch: int | None) -> None:
        self.inner, self.batch, self.max_batch = Recording(), batch, batch
        self.contract, self.submit, self.result = self.inner.contract, self.inner.submit, self.inner.result


@pytest.mark.parametrize(("batch", "sizes"), [(None, [1, 1, 1, 2, 2, 2, 3, 3, 3]), (3, [])])
def test_every_batch_that_has_a_graph_is_warmed_up_in_every_slot(batch: int | None, sizes: list[int]) -> None:
    executor = Recorder(batch)
    warm_up_batches(Detector(executor), FRAMES[:2], 3, in_flight=3)  # type: ignore[arg-type]
    assert [count for _, count in executor.inner.asked] == sizes
    assert executor.inner.most == (3 if sizes else 0)


def test_the_host_has_no_graphs_to_warm_up() -> None:
    executor = Recording()
    warm_up_batches(Detector(executor), FRAMES, 3)
    assert executor.asked == []


def test_overhead_is_what_the_host_adds_to_the_gpu() -> None:
    assert host_overhead(Latency.of([2.2]), {GPU: Latency.of([2.0])}) == pytest.approx(0.1)


@pytest.mark.parametrize("streams", [1, 3])
def test_every_frame_submitted_is_counted_once(streams: int) -> None:
    executor = StandIn(contract())
    found = measure_throughput(Detector(executor), FRAMES, batch=2, seconds=0.05, streams=streams)
    assert found.frames == sum(shape[0] for shape in executor.calls)
    assert found.frames >= 6 * streams
    assert found.seconds >= 0.05
    assert (found.streams, found.in_flight) == (streams, 2)
    assert Throughput(30, 1.5, 1, 2).frames_per_second == 20


def test_so_many_are_on_their_way() -> None:
    executor = Recording()
    measure_throughput(Detector(executor), FRAMES, batch=1, seconds=0.02, in_flight=3)
    assert (executor.most, executor.now) == (3, 0)


def test_an_error_in_one_stream_ends_all() -> None:
    broken = Detector(StandIn(contract(), fail_at=4, error=RuntimeError("no more")))
    with pytest.raises(RuntimeError, match="no more"):
        measure_throughput(broken, FRAMES, batch=1, seconds=60, streams=3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def test_warming_up_takes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retina_edge.measurement.timing.WARM_UP_SECONDS", 0.05)
    start = time.perf_counter()
    executor = Recording()
    warm_up(Detector(executor), FrameCycle(FRAMES, 1), in_flight=5)
    assert 0.05 <= time.perf_counter() - start < 5
    assert executor.most == 5
