"""A sink that is tried again: what is lost meanwhile, what the log says, what is left of a full disk."""

from __future__ import annotations

import csv
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from engines.core.errors import SinkError
from retina_edge.sinks import retrying_sink as retrying
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.csv_sink import HEADER, CsvSink
from retina_edge.sinks.per_stream_sink import PerStreamSink
from retina_edge.sinks.recording_sink import RecordingSink
from retina_edge.sinks.retrying_sink import RETRY_SECONDS, RetryingSink
from retina_edge.sinks.text_sink import JsonlSink
from retina_edge.sinks.video_sink import RESERVED_BYTES
from tests.media import count_frames
from tests.retina_edge.sinks.test_background_sink import Recorder
from tests.retina_edge.sinks.test_full_disk import noise
from tests.retina_edge.sinks.test_sinks import result, write_all
from tests.small_disk import small_disk
from tests.waiting import wait_for


class Final(Recorder):
    """As a film's video."""

    resumable = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only item is the time, which stands still."""
    now = [1000.0]
    monkeypatch.setattr(retrying, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_new_sink_takes_over_after_the_pause(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder(fails_at=2 if not made else None))
        return made[-1]

    with RetryingSink("name", make) as sink:
        for index in range(4):
            sink.write(result(index))
        assert (sink.lost, sink.failing, str(sink.error)) == (2, True, "the disk is full")
        assert sink.error is not None
        assert sink.error.__traceback__ is None  # it would hold the frame
        clock[0] += RETRY_SECONDS - 0.1
        sink.write(result(4))
        clock[0] += 0.2
        for index in (5, 6):
            sink.write(result(index))
        assert (sink.lost, sink.failing, str(sink.error)) == (3, False, "the disk is full")
    assert [recorder.indices for recorder in made] == [[0, 1], [5, 6]]
    assert [list(map(str, recorder.closed_with)) for recorder in made] == [["the disk is full"], ["None"]]
    assert caplog.messages == [
        "name: the disk is full; next attempt in 10 s",
        "name: written again; results lost: 3",
    ]


def test_an_error_that_stays_is_said_once(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with RetryingSink("name", lambda: Recorder(fails_at=0)) as sink:
        for _ in range(5):
            sink.write(result(0))
            clock[0] += RETRY_SECONDS
    assert (sink.lost, str(sink.error)) == (5, "the disk is full")
    assert caplog.messages == ["name: the disk is full; next attempt in 10 s"]


def test_what_cannot_go_on_is_not_tried_again(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Final(fails_at=1))
        return made[-1]

    with RetryingSink("name", make) as sink:
        for index in range(4):
            sink.write(result(index))
            clock[0] += 1e6
    assert (len(made), sink.lost, str(sink.error)) == (1, 3, "the disk is full")
    assert caplog.messages == ["name: the disk is full; nothing more is written there"]


def test_an_error_of_closing_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    with RetryingSink("name", lambda: Recorder(fails_to_close=True)) as sink:
        sink.write(result())
    assert (sink.lost, sink.failing, str(sink.error)) == (1, True, "the index could not be written")
    assert caplog.messages == ["name: the index could not be written; it is not whole"]


def test_an_error_of_closing_is_kept_beside_the_one_that_ends_the_block() -> None:
    sink = RetryingSink("name", lambda: Recorder(fails_to_close=True))
    with pytest.raises(KeyboardInterrupt):
        write_all(sink, [result()], error=KeyboardInterrupt())
    assert (sink.lost, sink.failing) == (1, True)


def test_the_first_error_is_the_one_that_counts() -> None:
    with RetryingSink("name", lambda: Recorder(fails_at=0, fails_to_close=True)) as sink:
        sink.write(result())
    assert str(sink.error) == "the disk is full"


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which Linux has")


@needs_full
def test_what_cannot_be_opened_is_raised_and_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), RetryingSink("name", lambda: JsonlSink(tmp_path)):
        pytest.fail("opened")
    with RetryingSink("full", lambda: CsvSink(Path("/dev/full"), append=True)) as sink:  # it has no room for its header
        assert isinstance(sink.error, OSError)
        assert sink.error.errno == errno.ENOSPC
        sink.write(result())
    assert sink.lost == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_at_the_start_is_waited_for(clock: list[float], number: int) -> None:
    made: list[Recorder] = []

    class NoRoom(Recorder):
        def __enter__(self) -> Recorder:
            made.append(self)
            if len(made) == 1:
                raise OSError(number, "no room")
            return self

    with RetryingSink("name", NoRoom) as sink:
        sink.write(result(0))
        clock[0] += RETRY_SECONDS
        sink.write(result(1))
    assert (sink.lost, made[-1].indices) == (1, [1])


def test_a_disk_that_gets_room_again_is_written_to_again(tmp_path: Path, clock: list[float]) -> None:
    """Lines go on behind the one that was cut, and a recording in a new file; while it was full none was begun."""
    with small_disk(tmp_path / "disk", RESERVED_BYTES + 2**20) as disk:
        lines = RetryingSink("lines", lambda: JsonlSink(disk / "o.jsonl", append=True))
        recordings = RetryingSink("recordings", lambda: RecordingSink(disk, "yard", fps=25))
        ballast = disk / "ballast"
        with lines, recordings:
            lines.write(result(0))
            recordings.write(noise(0))
            ballast.write_bytes(bytes(2**19))
            for index in range(1, 40):
                recordings.write(noise(index))
            assert isinstance(recordings.error, OSError)
            ballast.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize + 2**19))
            for index in range(1, 400):
                lines.write(result(index))
                recordings.write(noise(index))
                clock[0] += 0.1
            assert isinstance(lines.error, OSError)
            assert len(list(disk.glob("yard-*"))) == 1
            ballast.unlink()
            clock[0] += RETRY_SECONDS
            for index in (400, 401):
                lines.write(result(index))
                recordings.write(noise(index))
            assert [sink.failing for sink in (lines, recordings)] == [False, False]
        assert sorted(path.suffixes[0] for path in disk.glob("yard-*")) == [".mp4", ".partial"]
        (whole,) = (path for path in disk.glob("yard-*") if ".partial" not in path.name)
        assert count_frames(whole)[0] == 2
        read = [json.loads(line)["frame"] for line in (disk / "o.jsonl").read_text().splitlines()]
        assert read == [*range(400 - lines.lost), 400, 401]
        assert 0 < lines.lost < 400


def test_one_stream_that_cannot_be_saved_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    shown = {"a": Final(fails_at=1), "b": Recorder()}
    saving = PerStreamSink(lambda stream: RetryingSink(stream, lambda: shown[stream]))
    background = BackgroundSink(saving, capacity=32)
    with background as sink:
        for index in range(4):
            for stream in shown:
                sink.write(replace(result(index), stream=stream))
        sink.end("a")
        wait_for(lambda: background.done == 5 and not background.failing)  # of the one that goes on
    assert [recorder.indices for recorder in shown.values()] == [[0], [0, 1, 2, 3]]
    assert (background.done, background.lost, str(background.error)) == (5, 3, "the disk is full")
    assert not background.failing
    assert caplog.messages == ["a: the disk is full; nothing more is written there"]


def test_older_results_are_continued(tmp_path: Path) -> None:
    lines, table = tmp_path / "o.jsonl", tmp_path / "o.csv"
    for index in range(2):
        with JsonlSink(lines, append=True) as one, CsvSink(table, append=True) as other:
            one.write(result(index))
            other.write(result(index))
            assert len(lines.read_text().splitlines()) == index + 1  # at once, for whoever reads along
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [0, 1]
    header, *rows = table.read_text().splitlines()
    assert header == ",".join(HEADER)
    assert header not in rows
    assert len(rows) >= 2
    lines.write_text(lines.read_text()[:-5])
    with JsonlSink(lines, append=True) as one:
        one.write(result(2))
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [0, 2]


def test_a_bug_in_a_sink_is_an_error_like_others() -> None:

    class Broken(Recorder):
        def write(self, _result: object) -> None:
            raise TypeError

    with RetryingSink("name", Broken) as sink:
        sink.write(result())
    assert sink.lost == 1


def test_a_header_that_was_cut_is_written_again(tmp_path: Path) -> None:
    table = tmp_path / "o.csv"
    table.write_text(",".join(HEADER)[:20])
    for index in range(2):
        with CsvSink(table, append=True) as sink:
            sink.write(result(index))
    header, *rows = table.read_text().splitlines()
    assert (header, len(rows)) == (",".join(HEADER), 2)


def test_a_row_that_was_cut_within_quotes_swallows_none(tmp_path: Path) -> None:
    table = tmp_path / "o.csv"
    with CsvSink(table, append=True) as sink:
        sink.write(result(0))
        sink.write(result(1, name="Fichte, rot"))
    content = table.read_text()
    table.write_text(content[: content.index("rot")])
    with CsvSink(table, append=True) as sink:
        sink.write(result(2))
    with table.open(newline="") as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["0", "2"]


def test_a_table_that_was_emptied_begins_anew(tmp_path: Path) -> None:
    """As logrotate does with copytruncate."""
    table = tmp_path / "o.csv"
    with CsvSink(table, append=True) as sink:
        sink.write(result(0))
        os.truncate(table, 0)
        sink.write(result(1))
    with table.open(newline="") as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["1"]


@needs_full
def test_what_leaves_nothing_in_a_file_proves_nothing(clock: list[float]) -> None:
    sink = RetryingSink("full", lambda: CsvSink(Path("/dev/full"), append=True))
    with sink:
        for _ in range(3):
            clock[0] += RETRY_SECONDS
            sink.write(result(count=0))
        assert (sink.failing, sink.lost) == (True, 0)


def test_a_table_of_something_else_is_not_continued(tmp_path: Path) -> None:
    table = tmp_path / "o.csv"
    table.write_text("day,trees\n")
    with pytest.raises(SinkError, match=r"expected a file that begins with stream,source,.*give another name"):
        RetryingSink("name", lambda: CsvSink(table, append=True)).__enter__()
    assert table.read_text() == "day,trees\n"


def test_lines_go_into_a_pipe(tmp_path: Path) -> None:
    """Which has no end to look at."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with JsonlSink(pipe, append=True) as sink:
        sink.write(result(7))
    with os.fdopen(reader) as lines:
        assert json.loads(lines.read())["frame"] == 7
