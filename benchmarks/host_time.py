"""Host time of the runner: a frame in pinned memory, over a driver that does nothing, against one copy of a frame.

    python -m benchmarks.host_time

``submit`` and ``result`` run in turn with a copy of a 1080p frame, so that a busy machine slows both: once directly
after a copy, when the processor's caches hold other things, and once again. The driver takes no time, so that only the
runner's own work is measured. A real driver takes some more for each call.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.idle_driver import IdleNetwork, idle_driver
from benchmarks.record import begin, save
from engines.onnx.onnx_executor import OnnxExecutor
from engines.runner.gpu_executor import GpuExecutor
from retina_edge.assets import MODEL
from retina_edge.detector import Detector

SIZE = (1080, 1920)
WARM_UP = 20
# Measured directly after the runner, while the caches still hold what it uses.
AGAIN = "again"
# Largest share of a copy that ``submit`` and ``result`` may take when they run again.
LIMIT = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, help="frames to measure (default: 1000)")
    rounds = parser.parse_args(argv).rounds
    before = begin()
    figures = measure(rounds)
    table = Table("", "µs, median of a 1080p frame", "share of a copy")
    for name, microseconds in figures["microseconds"].items():
        table.add_row(name, f"{microseconds:.1f}", f"{microseconds / figures['microseconds']['copy']:.3f}")
    Console().print(table)
    Console().print(f"written to {save('host_time', figures, before=before).name}")
    return 0 if figures["share"] <= LIMIT else 1


def measure(rounds: int) -> dict[str, Any]:
    """Return the median microseconds of a copy, of the executor and of the detector, and the executor's two shares."""
    contract = OnnxExecutor(MODEL).contract
    with idle_driver():
        executor = GpuExecutor(lambda _driver: IdleNetwork(contract))
        with Detector(executor) as detector:
            frame = detector.new_frame(*SIZE)
            frame[:] = 0
            target, other = np.ones_like(frame), np.zeros_like(frame)
            frames = [frame]
            ways: dict[str, Callable[[], object]] = {
                "copy": lambda: np.copyto(target, other),
                "executor": lambda: executor.result(executor.submit(frames)),
                AGAIN: lambda: executor.result(executor.submit(frames)),
                "detector": lambda: detector.result(detector.submit(frame)),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(WARM_UP + rounds):
                for name, way in ways.items():
                    if name != AGAIN:
                        np.copyto(other, target)
                    start = perf_counter()
                    way()
                    times[name].append(1e6 * (perf_counter() - start))
            assert executor.pool.block_of(frame) is not None
    medians = {name: round(statistics.median(values[WARM_UP:]), 2) for name, values in times.items()}
    return {
        "frame": list(SIZE),
        "rounds": rounds,
        "microseconds": medians,
        "share": round(medians[AGAIN] / medians["copy"], 4),
        "share_after_copy": round(medians["executor"] / medians["copy"], 4),
        "limit": LIMIT,
    }


if __name__ == "__main__":
    raise SystemExit(main())
