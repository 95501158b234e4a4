"""A detector under MLPerf's LoadGen, whose own files stand beside published results.

LoadGen decides when frames come and what counts; see https://github.com/mlcommons/inference, ``loadgen``.
"""

from __future__ import annotations

import atexit
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from engines.core.errors import MissingDependencyError, RetinaEdgeError
from retina_edge.cli.running import INTERRUPTED
from retina_edge.detections import Detections
from retina_edge.detector import DetectionTicket, Detector
from retina_edge.measurement.loadgen_settings import (
    SAMPLES,
    has_run_out,
    read_summary,
    set_expected_speed,
    settings_for,
)
from retina_edge.measurement.timing import IN_FLIGHT, FrameCycle, Frames, warm_up, warm_up_batches

SUMMARY = "mlperf_log_summary.txt"
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _Part:
    """Samples on their way: LoadGen's numbers of them, and their places among the frames."""

    numbers: list[int]
    indices: list[int]
    ticket: DetectionTicket[list[Detections]]


def run_loadgen(
    detector: Detector,
    frames: Frames,
    *,
    scenario: str,
    seconds: float,
    batch: int,
    logs: Path,
    queries_per_second: float | None = None,
) -> dict[str, Any]:
    """Runs one scenario in performance mode and gives the lines of LoadGen's summary.

    A response is what was found, seven float32 a box: index of the frame, ymin, xmin, ymax, xmax as shares of the
    frame, score, category.

    LoadGen cannot be told to end. After an error or Ctrl-C it is left behind: the process ends when it ends, without
    its C++ destructors and later ``atexit`` calls, and cannot run LoadGen again.

    Args:
        detector: any.
        frames: the samples, in memory; they are repeated where MLPerf wants more.
        scenario: ``SingleStream``, ``MultiStream``, ``Offline`` or ``Server``.
        seconds: least duration; from MLPerf's 600 on its other rules are kept, too, however long they take.
        batch: frames an inference, at most.
        logs: LoadGen's files go into ``logs/SCENARIO``.
        queries_per_second: of ``Server``; None asks for less than was measured beforehand.

    Returns:
        ``as the rules ask``, whether LoadGen ran by MLPerf's own settings, and ``because``, why not; then the summary.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        RetinaEdgeError: the detector fails; LoadGen's result is worth nothing then.
    """
    try:
        import mlperf_loadgen as loadgen
    except ImportError as error:
        raise MissingDependencyError(
            f"--mlperf: expected MLPerf's LoadGen ({error}); install it with pip install 'retina-edge[bench]'"
        ) from error
    if _left_behind:
        raise RetinaEdgeError("--mlperf: LoadGen still runs a test that was broken off; start this program again")
    folder = logs / scenario
    folder.mkdir(parents=True, exist_ok=True)
    frames = [frames[n % len(frames)] for n in range(max(SAMPLES, len(frames)))]
    settings, shortfalls = settings_for(loadgen, scenario, seconds)
    warm_up(detector, FrameCycle(frames, batch))
    warm_up_batches(detector, frames, batch)
    set_expected_speed(
        settings, detector, frames, scenario=scenario, batch=batch, queries_per_second=queries_per_second
    )
    _run(loadgen, _Worker(loadgen, detector, frames, batch), settings, folder, len(frames))
    summary = read_summary(folder / SUMMARY)
    if has_run_out(summary):
        shortfalls.append(f"faster than expected: LoadGen's samples ran out before {seconds:g} s were over; run again")
    because = {"because": "; ".join(shortfalls)} if shortfalls else {}
    return {"as the rules ask": not shortfalls, **because, **summary}


def _run(loadgen: Any, worker: _Worker, settings: Any, folder: Path, samples: int) -> None:
    """Runs LoadGen, in a thread so that Ctrl-C and a failing detector are seen at once."""
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log_settings = loadgen.LogSettings()
    log_settings.log_output, log_settings.enable_trace = output, False
    system = loadgen.ConstructSUT(worker.issue, lambda: None)
    # Loading and unloading samples is nothing: they are in memory.
    library = loadgen.ConstructQSL(samples, samples, lambda _: None, lambda _: None)
    test = threading.Thread(
        target=loadgen.StartTestWithLogSettings,
        args=(system, library, settings, log_settings),
        name="LoadGen",
        daemon=True,
    )
    worker.start()
    try:
        test.start()
        _wait(test, worker)
    except BaseException as error:
        worker.give_up(error)
    if worker.error is not None and test.is_alive():
        _leave_behind(worker.error)
    worker.stop()
    if worker.error is not None:
        if isinstance(worker.error, (RetinaEdgeError, KeyboardInterrupt)):
            raise worker.error
        raise RetinaEdgeError(f"--mlperf: the detector failed: {worker.error}") from worker.error
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


def _wait(test: threading.Thread, worker: _Worker) -> None:
    # Not joined: before Python 3.13 a join that Ctrl-C interrupts takes a running thread for ended.
    while test.is_alive() and worker.error is None:
        worker.failed.wait(POLL_SECONDS)


_left_behind = False


def _leave_behind(error: BaseException) -> None:
    """A test that goes on would crash Python's ordinary end, so that is left out; a second Ctrl-C ends it at once."""
    global _left_behind
    _left_behind = True
    code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    atexit.register(_end_process, code)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def _end_process(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Worker:
    """Takes LoadGen's samples as they come, in batches of what has come; several batches are on their way.

    Attributes:
        error: why it has ended before its time; what LoadGen waits for is never answered then.
        failed: set with it.
    """

    def __init__(self, loadgen: Any, detector: Detector, frames: Frames, batch: int) -> None:
        self._loadgen, self._detector, self._frames, self._batch = loadgen, detector, frames, batch
        self._todo: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._parts: deque[_Part] = deque()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="LoadGen worker", daemon=True)
        self.error: BaseException | None = None
        self.failed = threading.Event()

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's call, in a thread of its own; must not wait."""
        for sample in samples:
            self._todo.put((sample.id, sample.index))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After LoadGen's end nothing is left to do; after an error what is on its way is the last."""
        self._todo.put(None)
        self._thread.join()

    def give_up(self, error: BaseException) -> None:
        """Of several errors the first counts."""
        self.error = self.error or error
        self.failed.set()

    def _run(self) -> None:
        try:
            while self.error is None and (not self._ended or self._parts):
                if samples := self._next():
                    self._submit(samples)
                if self._parts and (len(self._parts) == IN_FLIGHT or self._todo.empty()):
                    self._finish()
        except BaseException as error:
            self.give_up(error)

    def _next(self) -> list[tuple[int, int]]:
        """What has come, up to a batch; waits only where nothing else is to be done."""
        samples: list[tuple[int, int]] = []
        while len(samples) < self._batch:
            try:
                sample = self._todo.get(block=not samples and not self._parts)
            except queue.Empty:
                break
            if sample is None:
                self._ended = True
                break
            samples.append(sample)
        return samples

    def _submit(self, samples: list[tuple[int, int]]) -> None:
        numbers, indices = map(list, zip(*samples, strict=True))
        ticket = self._detector.submit([self._frames[index] for index in indices])
        self._parts.append(_Part(numbers, indices, ticket))

    def _finish(self) -> None:
        part = self._parts[0]
        found = self._detector.result(part.ticket)
        data = [
            _response(index, self._frames[index], detections)
            for index, detections in zip(part.indices, found, strict=True)
        ]
        self._parts.popleft()
        self._answer(part.numbers, data)

    def _answer(self, numbers: Sequence[int], data: Sequence[npt.NDArray[np.float32]]) -> None:
        """The data must live until the call is over."""
        response = self._loadgen.QuerySampleResponse
        self._loadgen.QuerySamplesComplete(
            [response(n, d.ctypes.data, d.nbytes) for n, d in zip(numbers, data, strict=True)]
        )


def _response(index: int, frame: npt.NDArray[np.uint8], detections: Detections) -> npt.NDArray[np.float32]:
    height, width = frame.shape[:2]
    rows = np.empty((len(detections), 7), np.float32)
    rows[:, 0] = index
    rows[:, 1:5] = detections.boxes[:, (1, 0, 3, 2)] / (height, width, height, width)
    rows[:, 5] = detections.scores
    rows[:, 6] = [detections.category_ids[label] for label in detections.labels]
    return rows
