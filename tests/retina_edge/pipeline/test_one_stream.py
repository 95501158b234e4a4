"""A file through the pipeline to its sinks: every frame once and in order, the first error, and no leftover thread."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engines.core.errors import RetinaEdgeError, SourceError
from retina_edge.cli.run_report import STAGES, RunProgress, Summary
from retina_edge.detector import Detector
from retina_edge.pipeline.mailbox import QUEUE_SIZE
from retina_edge.pipeline.pipeline import JOIN_TIMEOUT, MAX_BATCHES_IN_FLIGHT, Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.text_sink import JsonlSink
from retina_edge.sinks.video_sink import VideoSink, partial_files
from retina_edge.sources.frames import Frame, Source
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.video_source import VideoSource
from retina_edge.system.console import Console
from retina_edge.system.stop_request import stop_on_signal
from tests.media import count_frames, write_patch_image, write_video
from tests.pairs import all_pairs
from tests.stand_in import StandIn, contract, patch_frame
from tests.waiting import NewThreads, wait_for

CAPACITY = 4
# Far more than any test needs; a test that takes longer hangs.
SECONDS = 20.0


class Frames(Source):
    """A source of ``count`` frames with a patch, or without end; it raises ``error`` instead of frame ``fail_at``."""

    def __init__(self, count: int | None, *, fail_at: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.name = "frames"
        self.output_names = ("frames.mp4",)
        self.read = 0
        self._count, self._fail_at, self._error = count, fail_at, error

    def __iter__(self) -> Iterator[Frame]:
        while self._count is None or self.read < self._count:
            if self.read == self._fail_at and self._error is not None:
                raise self._error
            index = self.read
            self.read += 1
            yield Frame(patch_frame((64, 96), (index % 60, 8)), index, index / 25, self.name)


class Collect(Sink):
    """A sink that keeps frame indices and left edges of boxes; it raises ``error`` instead of taking ``fail_at``."""

    def __init__(self, *, fail_at: int | None = None, error: BaseException | None = None, pause: float = 0) -> None:
        self.indices: list[int] = []
        self.lefts: list[float] = []
        self._fail_at, self._error, self._pause = fail_at, error, pause

    def write(self, result: Result) -> None:
        if len(self.indices) == self._fail_at and self._error is not None:
            raise self._error
        time.sleep(self._pause)
        self.indices.append(result.frame.index)
        self.lefts += result.detections.boxes[:, 0].tolist()


class Run:
    """A pipeline with one source and several background sinks; calling it runs the pipeline to the end."""

    def __init__(
        self, source: Source, sinks: Sequence[Sink], *, detector: Detector | None = None, **options: Any
    ) -> None:
        self.threads = NewThreads()
        self.sinks = [BackgroundSink(sink, capacity=CAPACITY) for sink in sinks]
        self.pipeline = Pipeline(
            detector or Detector(StandIn(contract())),
            {"frames": lambda: source},
            on_result=self._on_result,
            on_end=self._on_end,
            **options,
        )

    def _on_result(self, _stream: Stream, result: Result) -> None:
        for sink in self.sinks:
            sink.write(result)

    def _on_end(self, stream: Stream) -> None:
        for sink in self.sinks:
            sink.end(stream.name)

    def __call__(self) -> Summary:
        start = time.monotonic()
        try:
            with ExitStack() as stack:
                for sink in self.sinks:
                    stack.enter_context(sink)
                self.pipeline.run()
        finally:
            assert time.monotonic() - start < SECONDS
            assert not {"feeder", "capture frames", "sink Collect"} & set(self.threads.names())
        return self.summary()

    def summary(self) -> Summary:
        return Summary.of(self.pipeline, writing=sum(sink.seconds for sink in self.sinks))


def run(source: Source, sinks: Sequence[Sink], **options: Any) -> Summary:
    return Run(source, sinks, **options)()


@pytest.mark.parametrize("count", [0, 1, 2, QUEUE_SIZE, 50])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_frame_arrives_once_and_in_order(count: int, batch: int) -> None:
    sink = Collect(pause=0.001)
    summary = run(Frames(count), [sink], batch=batch)
    assert sink.indices == list(range(count))
    assert sink.lefts == [index % 60 for index in range(count)]
    assert (summary.frames, summary.detections) == (count, count)


@pytest.mark.parametrize("batch", [1, 4])
def test_an_executors_fixed_batch_is_used(batch: int) -> None:
    stand_in = StandIn(contract(), batch=batch)
    sink = Collect()
    run(Frames(10), [sink], detector=Detector(stand_in))
    assert sink.indices == list(range(10))
    assert {shape[0] for shape in stand_in.calls} == {batch}
    with pytest.raises(RetinaEdgeError, match=f"batch: expected {batch}, got 7"):
        Run(Frames(1), [], detector=Detector(stand_in), batch=7)


def test_max_frames_ends_a_source_that_does_not_end() -> None:
    sink = Collect()
    run(Frames(None), [sink], max_frames=7)
    assert sink.indices == list(range(7))


def test_only_detections_above_the_score_are_kept() -> None:
    for score, expected in ((None, 5), (0.89, 5), (0.95, 0)):
        assert run(Frames(5), [Collect()], score=score).detections == expected


@pytest.mark.parametrize("score", [0.049, 0.0, -1.0, 1.0])
def test_a_score_out_of_range_is_refused(score: float) -> None:
    with pytest.raises(RetinaEdgeError, match=r"score: expected 0\.05 <= score < 1"):
        Run(Frames(1), [], score=score)


def test_the_summary_adds_up_over_streams() -> None:
    counts = {"a": 3, "b": 4}
    sources = {name: partial(Frames, count) for name, count in counts.items()}
    pipeline = Pipeline(Detector(StandIn(contract())), sources, on_result=lambda *_: None)
    pipeline.run()
    summary = Summary.of(pipeline, writing=0.5)
    assert (summary.frames, summary.detections, summary.dropped) == (7, 7, 0)
    assert set(summary.stage_ms) == set(STAGES)
    assert all(value > 0 for value in summary.stage_ms.values())
    assert summary.fps == pytest.approx(7 / summary.seconds)


def test_captured_frames_are_written_after_a_stop() -> None:
    source = Frames(None)

    class Stopping(Collect):
        def write(self, result: Result) -> None:
            super().write(result)
            if len(self.indices) == 5:
                running.pipeline.stop()

    sink = Stopping()
    running = Run(source, [sink])
    running()
    # All but a frame that was read after its mailbox had closed.
    assert sink.indices in (list(range(source.read)), list(range(source.read - 1)))
    assert running.pipeline.streams[0].captured == len(sink.indices)


def test_a_stop_before_the_run_ends_the_run_at_once() -> None:
    sink = Collect()
    running = Run(Frames(3), [sink])
    running.pipeline.stop()
    running()
    assert sink.indices == []


def test_a_frame_is_annotated_once_and_only_if_a_sink_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def annotate(image: Any, detections: Any, **_: Any) -> Any:
        drawn.append(len(detections))
        return image.copy()

    class Keep(Sink):
        def write(self, result: Result) -> None:
            assert result.annotated is result.annotated
            assert result.annotated is not result.frame.image

    monkeypatch.setattr("retina_edge.pipeline.result.annotate", annotate)
    run(Frames(2), [Collect()])
    assert drawn == []
    run(Frames(2), [Keep(), Keep()])
    assert drawn == [1, 1]


ERRORS = [ValueError("boom"), SourceError("boom"), KeyboardInterrupt(), SystemExit(3), MemoryError()]


@pytest.mark.parametrize("at", [0, 1, 10])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_frames_before_an_error_of_the_source_are_written(error: BaseException, at: int) -> None:
    sink = Collect(pause=0.002)
    if isinstance(error, SourceError):  # an error of this stream only
        assert run(Frames(None, fail_at=at, error=error), [sink]).errors == (str(error),)
    else:
        with pytest.raises(type(error)) as caught:
            run(Frames(None, fail_at=at, error=error), [sink])
        assert caught.value is error
    assert sink.indices == list(range(at))


@pytest.mark.parametrize(*all_pairs(error=ERRORS, at=[0, 1, 10], pause=[0.0, 0.005]))
def test_frames_before_an_error_of_the_detector_are_written(error: BaseException, at: int, pause: float) -> None:
    sink = Collect(pause=pause)
    with pytest.raises(type(error)) as caught:
        run(Frames(None), [sink], detector=Detector(StandIn(contract(), fail_at=at, error=error)))
    assert caught.value is error
    assert sink.indices == list(range(at))


@pytest.mark.parametrize(*all_pairs(error=ERRORS, at=[0, 1, 10], batch=[1, 4]))
def test_an_error_of_a_sink_stops_the_source(error: BaseException, at: int, batch: int) -> None:
    source, sink = Frames(None), Collect(fail_at=at, error=error)
    with pytest.raises(type(error)) as caught:
        run(source, [sink], batch=batch)
    assert caught.value is error
    assert sink.indices == list(range(at))
    # The source is read ahead only by the frames that wait before and after the detector.
    assert source.read <= at + CAPACITY + 1 + (MAX_BATCHES_IN_FLIGHT + 1) * batch + QUEUE_SIZE + 1


def test_a_frame_of_another_type_is_an_error() -> None:
    class FloatFrames(Frames):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(frame.image.astype(float), 0, 0.0, "float")

    with pytest.raises(ValueError, match="expected an image"):
        run(FloatFrames(None), [Collect()])


def test_the_first_of_two_errors_is_raised() -> None:
    # The detector fails while the sink still writes frame 0; the sink fails afterwards, on frame 1.
    sink = Collect(fail_at=1, error=OSError("second"), pause=0.1)
    with pytest.raises(ValueError, match="first"):
        run(Frames(None), [sink], detector=Detector(StandIn(contract(), fail_at=3, error=ValueError("first"))))


@pytest.mark.parametrize("stage", ["source", "detector", "sink"])
def test_after_an_error_the_partial_video_is_playable(tmp_path: Path, stage: str) -> None:
    error = RuntimeError("boom")
    source = Frames(None, fail_at=10, error=error) if stage == "source" else Frames(None)
    stand_in = StandIn(contract(), fail_at=10, error=error) if stage == "detector" else StandIn(contract())
    failing = Collect(fail_at=10, error=error) if stage == "sink" else Collect()
    video, lines = VideoSink(tmp_path / "out.mp4", fps=25), JsonlSink(tmp_path / "out.jsonl")
    with pytest.raises(RuntimeError, match="boom"):
        run(source, [failing, video, lines], detector=Detector(stand_in))
    assert not (tmp_path / "out.mp4").exists()
    count = len((tmp_path / "out.jsonl").read_text().splitlines())
    (partial,) = partial_files(tmp_path / "out.mp4")
    assert count_frames(partial)[0] == count
    # The other sinks also have the frames that waited for them when one sink failed.
    assert count == 10 if stage != "sink" else 10 <= count <= 11 + CAPACITY


def test_ctrl_c_leaves_a_complete_video(tmp_path: Path) -> None:
    stand_in = StandIn(contract(), fail_at=12, error=KeyboardInterrupt())
    sink = VideoSink(tmp_path / "out.mp4", fps=25)
    with pytest.raises(KeyboardInterrupt):
        run(Frames(None), [sink], detector=Detector(stand_in))
    assert count_frames(tmp_path / "out.mp4")[0] == 12


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows lacks")
def test_ctrl_c_while_the_last_frames_are_written_waits_for_them() -> None:
    class Interrupting(Collect):
        def write(self, result: Result) -> None:
            super().write(result)
            if result.frame.index == 1:  # all other frames wait in the queue now
                os.kill(os.getpid(), signal.SIGINT)

    sink = Interrupting(pause=0.1)
    running = Run(Frames(QUEUE_SIZE), [sink])
    progress = RunProgress(Console(file=io.StringIO()), running.pipeline.streams)
    with stop_on_signal(running.pipeline.stop) as stop, running.sinks[0], progress:
        running.pipeline.run(progress.update)
    assert stop.requested
    assert sink.indices == list(range(QUEUE_SIZE))


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows lacks")
def test_a_second_ctrl_c_abandons_a_source_that_hangs() -> None:
    hangs = threading.Event()

    class Hanging(Frames):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            hangs.wait(SECONDS)

    sink = Collect()
    running = Run(Hanging(2), [sink])
    progress = RunProgress(Console(file=io.StringIO()), running.pipeline.streams)
    start = time.monotonic()
    for delay in (0.3, 0.5):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), stop_on_signal(running.pipeline.stop), running.sinks[0], progress:
        running.pipeline.run(progress.update)
    assert time.monotonic() - start < JOIN_TIMEOUT
    assert sink.indices == [0, 1]
    hangs.set()
    wait_for(lambda: not {"detector", "feeder", "capture frames"} & set(running.threads.names()))


def test_errors_and_warnings_of_sources_reach_the_summary(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"text")
    images = ImageSource(
        [write_patch_image(tmp_path / "a.png"), tmp_path / "bad.jpg", write_patch_image(tmp_path / "b.png")]
    )
    sink = Collect()
    summary = run(images, [sink])
    assert sink.indices == [0, 2]
    assert ["bad.jpg" in line for line in summary.errors] == [True]
    video = write_video(tmp_path / "v.avi", count=40, codec="MJPG")
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    summary = run(VideoSource(tmp_path / "cut.avi"), [Collect()])
    assert ["cut.avi" in line for line in summary.warnings] == [True]
    assert summary.errors == ()


def test_reading_and_writing_overlap_with_inference() -> None:
    pause, count = 0.01, 30

    class Slow(StandIn):
        def infer(self, images: Any) -> Any:
            time.sleep(pause)
            return super().infer(images)

    class SlowFrames(Frames):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                time.sleep(pause)
                yield frame

    summary = run(SlowFrames(count), [Collect(pause=pause)], detector=Detector(Slow(contract())))
    # Without overlap, each frame would take three pauses.
    assert summary.seconds < 2.5 * pause * count
