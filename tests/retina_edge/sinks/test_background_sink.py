"""BackgroundSink: files lose nothing, live streams drop the oldest result, errors, the end, playable videos."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from engines.core.errors import SinkError
from retina_edge.pipeline.result import Result
from retina_edge.sinks import background_sink
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.text_sink import JsonlSink
from retina_edge.sinks.video_sink import VideoSink, partial_files
from tests.media import count_frames
from tests.results import result
from tests.retina_edge.sinks.recorder import Recorder
from tests.waiting import wait_for


def no_sink_threads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("sink ")]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_all_results_are_written_in_order(live: bool, count: int) -> None:
    inner = Recorder()
    with BackgroundSink(inner, capacity=8) as sink:
        for i in range(count):
            sink.write(result(i, live=live))
    assert inner.indices == list(range(count))
    assert inner.closed_with == [None]
    assert no_sink_threads()


def test_a_file_waits_for_room_and_loses_nothing() -> None:
    inner = Recorder(delay=0.001)
    sink = BackgroundSink(inner, capacity=2)
    with sink:
        for i in range(200):
            sink.write(result(i))
            assert sink.pending <= 2
    assert inner.indices == list(range(200))
    assert (sink.dropped, sink.lost) == (0, 0)


def test_a_live_stream_never_waits_and_keeps_the_newest() -> None:
    inner = Recorder()
    inner.gate.clear()
    sink = BackgroundSink(inner, capacity=3)
    with sink:
        sink.write(result(0, live=True))
        wait_for(lambda: sink.pending == 0)  # the first result is being written
        start = time.monotonic()
        for i in range(1, 100):
            sink.write(result(i, live=True))
        assert time.monotonic() - start < 10  # a write that waits would wait for 20 s
        assert (sink.pending, sink.dropped) == (3, 96)
        inner.gate.set()
    assert inner.indices == [0, 97, 98, 99]
    assert (sink.dropped, inner.closed_with) == (96, [None])


def test_a_file_and_a_live_stream_do_not_starve_each_other() -> None:
    inner = Recorder()
    inner.gate.clear()
    sink = BackgroundSink(inner, capacity=3)
    with sink:
        sink.write(result(0))
        wait_for(lambda: sink.pending == 0)  # the first result is being written
        for i in (1, 2, 3):
            sink.write(result(i, live=True))
        for i in (10, 11, 12):
            sink.write(result(i))
        sink.write(result(4, live=True))  # replaces the oldest live result
        assert (sink.pending, sink.dropped) == (6, 1)
        threading.Timer(0.05, inner.gate.set).start()
        sink.write(result(13))  # waits for room
    assert inner.indices == [0, 2, 3, 10, 11, 12, 4, 13]
    assert (sink.dropped, sink.lost) == (1, 0)


def test_the_end_of_a_stream_keeps_its_place_in_the_queue() -> None:
    class EndRecorder(Recorder):
        def end(self, stream: str) -> None:
            assert stream == "a"
            self.indices.append(-1)

    inner = EndRecorder()
    inner.gate.clear()
    with BackgroundSink(inner, capacity=2) as sink:
        for i in range(4):
            sink.write(result(i, live=True))
        sink.end("a")
        sink.write(result(4, live=True))
        inner.gate.set()
    assert inner.indices.index(-1) == len(inner.indices) - 2


@pytest.mark.parametrize("live", [False, True])
def test_an_error_is_raised_once_in_the_owners_thread(live: bool) -> None:
    inner = Recorder(fails_at=3)
    sink = BackgroundSink(inner, capacity=2)
    raised = []
    with sink:
        for i in range(20):
            try:
                sink.write(result(i, live=live))
            except OSError as error:
                raised.append(error)
            time.sleep(0.01 if i == 3 else 0.001)
    assert [str(error) for error in raised] == ["the disk is full"]
    assert inner.closed_with == raised
    assert sink.lost + sink.dropped + len(inner.indices) == 20


def test_an_error_wakes_a_writer_that_waits_for_room() -> None:
    inner = Recorder(fails_at=0)
    inner.gate.clear()
    sink = BackgroundSink(inner, capacity=1)
    threading.Timer(0.1, inner.gate.set).start()

    def write_many() -> None:
        with sink:
            for i in range(5):
                sink.write(result(i))

    with pytest.raises(OSError, match="the disk is full"):
        write_many()
    assert no_sink_threads()


@pytest.mark.parametrize("fails_to_close", [False, True])
def test_an_error_at_the_end_is_raised_by_the_with_block(fails_to_close: bool) -> None:
    inner = Recorder(fails_at=None if fails_to_close else 1, fails_to_close=fails_to_close)
    inner.gate.clear()
    entered = BackgroundSink(inner, capacity=4).__enter__()
    entered.write(result(0))
    entered.write(result(1))
    inner.gate.set()
    with pytest.raises(OSError, match="the index could" if fails_to_close else "the disk is full"):
        entered.__exit__(None, None, None)


def test_an_error_of_the_block_is_raised_and_the_sinks_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    inner = Recorder(fails_at=0)
    inner.gate.clear()

    def write_and_fail() -> None:
        with BackgroundSink(inner, capacity=4) as sink:
            sink.write(result(0))
            inner.gate.set()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert "Recorder: the disk is full" in caplog.text


def test_a_broken_sink_does_not_end_the_others(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    broken, working = Recorder(fails_at=2), Recorder()
    jsonl = JsonlSink(tmp_path / "out.jsonl")
    with ExitStack() as stack:
        sinks = [
            stack.enter_context(BackgroundSink(inner, capacity=4, on_error=errors.append))
            for inner in (broken, working, jsonl)
        ]
        for i in range(50):
            for sink in sinks:
                sink.write(result(i))
    assert [str(error) for error in errors] == ["the disk is full"]
    assert broken.indices == [0, 1]
    assert working.indices == list(range(50))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 50
    assert [sink.written for sink in sinks] == [(), (), (tmp_path / "out.jsonl",)]


def test_an_error_of_opening_is_raised_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        BackgroundSink(JsonlSink(tmp_path / "file" / "x"), capacity=1).__enter__()
    assert no_sink_threads()


def test_videos_are_complete_and_playable_even_after_errors(tmp_path: Path) -> None:
    with BackgroundSink(VideoSink(tmp_path / "a.mp4", fps=25), capacity=2) as sink:
        for i in range(12):
            sink.write(result(i))
    assert count_frames(tmp_path / "a.mp4")[0] == 12
    assert sink.written == (tmp_path / "a.mp4",)

    def write_until(error: BaseException | None, path: Path) -> None:
        with BackgroundSink(VideoSink(path, fps=25), capacity=2) as video:
            for i in range(5):
                video.write(result(i))
            if error is not None:
                raise error
            video.write(result(5, size=(80, 80)))  # an error of the sink itself

    with pytest.raises(ZeroDivisionError):
        write_until(ZeroDivisionError(), tmp_path / "b.mp4")
    with pytest.raises(KeyboardInterrupt):
        write_until(KeyboardInterrupt(), tmp_path / "c.mp4")
    with pytest.raises(SinkError, match="frame 5"):
        write_until(None, tmp_path / "d.mp4")
    whole = {path.name: count_frames(path)[0] for path in tmp_path.glob("?.mp4")}
    assert whole == {"a.mp4": 12, "c.mp4": 5}
    partial = {path.name[0]: count_frames(path)[0] for path in tmp_path.glob("*.partial.mp4")}
    assert partial == {"b": 5, "d": 5}


def test_unwritten_results_at_the_end_are_an_error_for_files_and_dropped_for_live_streams(tmp_path: Path) -> None:
    class SlowVideo(VideoSink):
        def write(self, result: Result) -> None:
            time.sleep(0.06)
            super().write(result)

    def run(path: Path, live: bool) -> BackgroundSink:
        sink = BackgroundSink(SlowVideo(path, fps=25), capacity=20, close_seconds=0.3)
        with sink:
            for i in range(20):
                sink.write(result(i, live=live))
        return sink

    live = run(tmp_path / "live.mp4", True)
    assert count_frames(tmp_path / "live.mp4")[0] > 0
    assert 0 < live.dropped < 20
    with pytest.raises(SinkError, match=r"too slow: \d+ frames were not written within 0\.3 s of the end"):
        run(tmp_path / "file.mp4", False)
    (partial,) = partial_files(tmp_path / "file.mp4")
    assert 0 < count_frames(partial)[0] < 20
    assert no_sink_threads()


def test_a_sink_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(background_sink, "GRACE_SECONDS", 0.1)
    inner = Recorder()
    inner.gate.clear()
    entered = BackgroundSink(inner, capacity=4, close_seconds=0.1).__enter__()
    entered.write(result(0))
    start = time.monotonic()
    with pytest.raises(SinkError, match="Recorder hangs"):
        entered.__exit__(None, None, None)
    assert time.monotonic() - start < 10  # the sink hangs for 20 s
    assert "left behind" in caplog.text
    inner.gate.set()
    wait_for(no_sink_threads)
    assert len(inner.closed_with) == 1


def test_a_capacity_below_1_and_use_outside_the_block_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity of at least 1"):
        BackgroundSink(Recorder(), capacity=0)
    sink = BackgroundSink(Recorder(), capacity=1)
    with pytest.raises(ValueError, match="with block"):
        sink.write(result())
    with sink:
        pass
    with pytest.raises(ValueError, match="with block"):
        sink.write(result())
