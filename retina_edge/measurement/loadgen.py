"""Measurements with MLPerf's LoadGen, whose log files can be compared with published results.

LoadGen decides when frames arrive and what is counted: https://github.com/mlcommons/inference, folder ``loadgen``.
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
from retina_edge.detections import Detections
from retina_edge.detector import DetectionTicket, Detector
from retina_edge.measurement.loadgen_settings import (
    RULES,
    SAMPLES,
    ran_out_of_samples,
    read_summary,
    set_expected_speed,
    settings_for,
)
from retina_edge.measurement.timing import IN_FLIGHT, FrameCycle, Frames, warm_up, warm_up_batches
from retina_edge.system.stop_request import INTERRUPTED

SUMMARY = "mlperf_log_summary.txt"
# Seconds between two checks of LoadGen's thread.
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _Part:
    """A batch of samples in flight.

    Attributes:
        ids: LoadGen's ids of the samples.
        indices: indices of their frames.
        ticket: ticket of the detector.
    """

    ids: list[int]
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
    """Run one scenario in performance mode and return LoadGen's summary.

    The response to a sample has seven float32 for each detection: index of the frame; ymin, xmin, ymax, xmax relative
    to the size of the frame; score; category id.

    LoadGen cannot be stopped. After an error or Ctrl-C its thread is abandoned. The process can then not run LoadGen
    again, and ends without C++ destructors and without the ``atexit`` functions that were registered earlier.

    Args:
        detector: any detector.
        frames: the samples, in memory; they are repeated if MLPerf requires more.
        scenario: ``SingleStream``, ``MultiStream``, ``Offline`` or ``Server``.
        seconds: minimum duration. From 600 s, MLPerf's own minimum, LoadGen applies all other rules, too, and the run
            may take longer.
        batch: largest number of frames in a batch.
        logs: folder for LoadGen's files, which go into ``logs/SCENARIO``.
        queries_per_second: query rate of ``Server``; None for a share of the throughput, which is then measured first.

    Returns:
        The entries of LoadGen's summary. ``rules`` comes first and names the rules. ``as the rules ask`` is True if
        LoadGen ran with MLPerf's own settings; if it is False, ``because`` gives the reasons.

    Raises:
        MissingDependencyError: if LoadGen is not installed.
        RetinaEdgeError: if the detector fails, LoadGen does not have the rules, or LoadGen still runs a
            test that was aborted.
    """
    try:
        import mlperf_loadgen as loadgen
    except ImportError as error:
        raise MissingDependencyError(
            f"--mlperf: expected MLPerf's LoadGen ({error}); install it with pip install 'retina-edge[bench]'"
        ) from error
    if _abandoned:
        raise RetinaEdgeError("--mlperf: LoadGen still runs a test that was aborted; restart this program")
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
    if ran_out_of_samples(summary):
        shortfalls.append(f"faster than expected: LoadGen's samples ran out before {seconds:g} s; run again")
    because = {"because": "; ".join(shortfalls)} if shortfalls else {}
    return {"rules": RULES, "as the rules ask": not shortfalls, **because, **summary}


def _run(loadgen: Any, worker: _Worker, settings: Any, folder: Path, samples: int) -> None:
    """Run LoadGen in a thread, so that Ctrl-C and a failing detector end the run at once."""
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log_settings = loadgen.LogSettings()
    log_settings.log_output, log_settings.enable_trace = output, False
    system = loadgen.ConstructSUT(worker.issue, lambda: None)
    # The samples are in memory, so loading and unloading them does nothing.
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
        _abandon(worker.error)
    worker.stop()
    if worker.error is not None:
        if isinstance(worker.error, (RetinaEdgeError, KeyboardInterrupt)):
            raise worker.error
        raise RetinaEdgeError(f"--mlperf: the detector failed: {worker.error}") from worker.error
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


def _wait(test: threading.Thread, worker: _Worker) -> None:
    """Wait until the test has ended or the worker has failed."""
    # Wait for an event: before Python 3.13, a Thread.join interrupted by Ctrl-C treats a running thread as finished.
    while test.is_alive() and worker.error is None:
        worker.failed.wait(POLL_SECONDS)


# True after an error, because LoadGen's thread still runs.
_abandoned = False


def _abandon(error: BaseException) -> None:
    """Make the process end without Python's ordinary shutdown, because a running test would crash it.

    A second Ctrl-C ends the process at once.
    """
    global _abandoned
    _abandoned = True
    code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    atexit.register(_end_process, code)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def _end_process(code: int) -> NoReturn:
    """End the process at once, with its output flushed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Worker:
    """A thread that detects in batches of the samples that LoadGen has issued, with several batches in flight.

    Attributes:
        error: the error that ended the thread early, so that LoadGen gets no more responses; None without an error.
        failed: event that is set together with ``error``.
    """

    def __init__(self, loadgen: Any, detector: Detector, frames: Frames, batch: int) -> None:
        self._loadgen, self._detector, self._frames, self._batch = loadgen, detector, frames, batch
        self._waiting: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._parts: deque[_Part] = deque()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="LoadGen worker", daemon=True)
        self.error: BaseException | None = None
        self.failed = threading.Event()

    def issue(self, samples: Sequence[Any]) -> None:
        """Queue samples. LoadGen calls this in its own thread, so it must not block."""
        for sample in samples:
            self._waiting.put((sample.id, sample.index))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it, after LoadGen has ended or after an error."""
        self._waiting.put(None)
        self._thread.join()

    def give_up(self, error: BaseException) -> None:
        """Record the error that ends the run; the first of several errors counts."""
        self.error = self.error or error
        self.failed.set()

    def _run(self) -> None:
        try:
            while self.error is None and (not self._ended or self._parts):
                if samples := self._next():
                    self._submit(samples)
                if self._parts and (len(self._parts) == IN_FLIGHT or self._waiting.empty()):
                    self._finish()
        except BaseException as error:
            self.give_up(error)

    def _next(self) -> list[tuple[int, int]]:
        """Return the samples that have arrived, up to a batch. Wait for one only if no batch is in flight."""
        samples: list[tuple[int, int]] = []
        while len(samples) < self._batch:
            try:
                sample = self._waiting.get(block=not samples and not self._parts)
            except queue.Empty:
                break
            if sample is None:
                self._ended = True
                break
            samples.append(sample)
        return samples

    def _submit(self, samples: list[tuple[int, int]]) -> None:
        ids, indices = map(list, zip(*samples, strict=True))
        frames = [self._frames[index] for index in indices]
        ticket = self._detector.submit(frames, score=self._detector.score_threshold)  # MLPerf measures AP with all
        self._parts.append(_Part(ids, indices, ticket))

    def _finish(self) -> None:
        """Answer the oldest batch in flight."""
        part = self._parts[0]
        results = self._detector.result(part.ticket)
        data = [
            _response(index, self._frames[index], detections)
            for index, detections in zip(part.indices, results, strict=True)
        ]
        self._parts.popleft()
        self._answer(part.ids, data)

    def _answer(self, ids: Sequence[int], data: Sequence[npt.NDArray[np.float32]]) -> None:
        """Pass responses to LoadGen. The caller must keep the data alive during the call."""
        response = self._loadgen.QuerySampleResponse
        self._loadgen.QuerySamplesComplete(
            [response(n, d.ctypes.data, d.nbytes) for n, d in zip(ids, data, strict=True)]
        )


def _response(index: int, frame: npt.NDArray[np.uint8], detections: Detections) -> npt.NDArray[np.float32]:
    """Return the response to a sample: float32 [N, 7], see ``run_loadgen``."""
    height, width = frame.shape[:2]
    rows = np.empty((len(detections), 7), np.float32)
    rows[:, 0] = index
    rows[:, 1:5] = detections.boxes[:, (1, 0, 3, 2)] / (height, width, height, width)
    rows[:, 5] = detections.scores
    rows[:, 6] = [detections.category_ids[label] for label in detections.labels]
    return rows
