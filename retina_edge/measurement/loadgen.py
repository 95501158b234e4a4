"""A detector under MLPerf's LoadGen, whose own files stand beside published results.

LoadGen decides when frames come and what counts; see https://github.com/mlcommons/inference, ``loadgen``.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import MissingDependencyError, RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.detector import Detector, Submitted
from retina_edge.measurement.timing import Frames, Rounds, measure_latency, measure_throughput

SUMMARY = "mlperf_log_summary.txt"
# MLPerf's limit for RetinaNet in the Server scenario, and the samples of a MultiStream query.
SERVER_LATENCY_MS, STREAMS = 100, 8
IN_FLIGHT = 2
# Of the throughput measured beforehand, what Server is asked for where nobody says.
SERVER_SHARE = 0.7
PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class _Part:
    """Samples on their way: LoadGen's numbers of them, and their places among the frames."""

    numbers: list[int]
    indices: list[int]
    ticket: Submitted[list[Detections]]


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

    Args:
        detector: any.
        frames: the samples, in memory.
        scenario: ``SingleStream``, ``MultiStream``, ``Offline`` or ``Server``.
        seconds: least duration; a published result takes 600.
        batch: frames an inference, at most.
        logs: LoadGen's files go into ``logs/SCENARIO``.
        queries_per_second: of ``Server``; None asks for less than was measured beforehand.

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
    folder = logs / scenario
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(loadgen, detector, frames, scenario, seconds, batch, queries_per_second)
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log_settings = loadgen.LogSettings()
    log_settings.log_output, log_settings.enable_trace = output, False
    worker = _Worker(loadgen, detector, frames, batch)
    system = loadgen.ConstructSUT(worker.issue, lambda: None)
    # Loading and unloading samples is nothing: they are in memory.
    library = loadgen.ConstructQSL(len(frames), len(frames), lambda _: None, lambda _: None)
    # In a thread, so that Ctrl-C is seen; LoadGen then ends when its least duration is over.
    test = threading.Thread(target=loadgen.StartTestWithLogSettings, args=(system, library, settings, log_settings))
    worker.start()
    test.start()
    try:
        _join(test)
    except BaseException as error:
        worker.give_up(error)
        test.join()
    finally:
        worker.stop()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
    if worker.error is not None:
        if isinstance(worker.error, (RetinaEdgeError, KeyboardInterrupt)):
            raise worker.error
        raise RetinaEdgeError(f"--mlperf {scenario}: the detector failed: {worker.error}") from worker.error
    return read_summary(folder / SUMMARY)


def read_summary(path: Path) -> dict[str, Any]:
    """The results in LoadGen's summary: what stands left and right of each colon, and its remarks.

    What was asked of it follows there, and stays there.
    """
    results, _, _ = path.read_text(encoding="utf-8").partition("Test Parameters Used")
    found: dict[str, Any] = {}
    remarks = []
    for line in map(str.strip, results.splitlines()):
        name, colon, value = line.partition(":")
        if line.startswith("* "):
            remarks.append(line[2:])
        elif colon and value.strip():
            found[name.strip()] = _value(value.strip())
    return found | ({"remarks": " ".join(remarks)} if remarks else {})


def _settings(
    loadgen: Any,
    detector: Detector,
    frames: Frames,
    scenario: str,
    seconds: float,
    batch: int,
    queries_per_second: float | None,
) -> Any:
    """LoadGen wants to be told beforehand, roughly, how fast it will be."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1000 * seconds)
    settings.min_query_count = 1  # its summary says where that was too few for its statistics
    if scenario == "SingleStream":
        settings.single_stream_expected_latency_ns = round(1e6 * _probe(detector, frames, 1))
    elif scenario == "MultiStream":
        settings.multi_stream_samples_per_query = STREAMS
        settings.multi_stream_expected_latency_ns = round(1e6 * _probe(detector, frames, STREAMS))
    else:
        measured = measure_throughput(detector, frames, batch=batch, seconds=PROBE_SECONDS, in_flight=IN_FLIGHT)
        settings.offline_expected_qps = measured.frames_per_second
        settings.server_target_qps = queries_per_second or SERVER_SHARE * measured.frames_per_second
        settings.server_target_latency_ns = round(1e6 * SERVER_LATENCY_MS)
    return settings


def _probe(detector: Detector, frames: Frames, batch: int) -> float:
    return measure_latency(detector, Rounds(frames, batch), PROBE_SECONDS).p50


class _Worker:
    """Takes LoadGen's samples as they come, in batches of what has come; several batches are on their way."""

    def __init__(self, loadgen: Any, detector: Detector, frames: Frames, batch: int) -> None:
        self._loadgen, self._detector, self._frames, self._batch = loadgen, detector, frames, batch
        self._todo: queue.Queue[tuple[int, int] | None] = queue.Queue()
        self._parts: deque[_Part] = deque()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="loadgen worker")
        self.error: BaseException | None = None

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's call, in a thread of its own; must not wait."""
        for sample in samples:
            self._todo.put((sample.id, sample.index))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After LoadGen's end: nothing is left to do."""
        self._todo.put(None)
        self._thread.join()

    def give_up(self, error: BaseException) -> None:
        """From now on samples are answered with nothing, so that LoadGen comes to an end."""
        self.error = self.error or error

    def _run(self) -> None:
        while not self._ended or self._parts:
            samples = self._next()
            try:
                if self.error is not None:
                    self._answer([number for number, _ in samples], [])
                elif samples:
                    self._submit(samples)
                samples = []
                if self._parts and (len(self._parts) == IN_FLIGHT or self._todo.empty() or self.error):
                    self._finish()
            except BaseException as error:  # LoadGen waits for an answer to every sample
                self.give_up(error)
                self._answer([number for number, _ in samples], [])
                while self._parts:
                    self._answer(self._parts.popleft().numbers, [])

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
        if data:
            answers = [response(n, d.ctypes.data, d.nbytes) for n, d in zip(numbers, data, strict=True)]
        else:
            answers = [response(number, 0, 0) for number in numbers]
        if answers:
            self._loadgen.QuerySamplesComplete(answers)


def _response(index: int, frame: npt.NDArray[np.uint8], detections: Detections) -> npt.NDArray[np.float32]:
    height, width = frame.shape[:2]
    rows = np.empty((len(detections), 7), np.float32)
    rows[:, 0] = index
    rows[:, 1:5] = detections.boxes[:, (1, 0, 3, 2)] / (height, width, height, width)
    rows[:, 5] = detections.scores
    rows[:, 6] = [detections.category_ids[label] for label in detections.labels]
    return rows


def _join(thread: threading.Thread) -> None:
    while thread.is_alive():
        thread.join(0.1)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
