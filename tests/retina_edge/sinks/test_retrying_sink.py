"""RetryingSink: lost results, log messages, full disks; and text files that are continued."""

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
from retina_edge.sinks import retrying_sink
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.csv_sink import HEADER, CsvSink
from retina_edge.sinks.per_stream_sink import PerStreamSink
from retina_edge.sinks.recording_sink import RecordingSink
from retina_edge.sinks.retrying_sink import RETRY_SECONDS, RetryingSink
from retina_edge.sinks.text_sink import JsonlSink
from retina_edge.sinks.video_sink import RESERVED_BYTES
from tests.media import count_frames
from tests.results import noise, result
from tests.retina_edge.sinks.recorder import Recorder, write_all
from tests.small_disk import small_disk
from tests.waiting import wait_for


class FinalRecorder(Recorder):
    """A sink that cannot be replaced after an error, such as the video of a file."""

    resumable = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock of RetryingSink. The only item of the list is the time, which the test advances."""
    now = [1000.0]
    monkeypatch.setattr(retrying_sink, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_new_sink_takes_over_at_the_next_attempt(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder(fails_at=2 if not made else None))
        return made[-1]

    with RetryingSink("name", make) as sink:
        for index in range(4):
            sink.write(result(index))
        assert (sink.lost, sink.failing, str(sink.error)) == (2, True, "the disk is full")
        assert sink.error is not None
        assert sink.error.__traceback__ is None  # the sink would keep the frame in memory
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
        "name: writing works again; results lost: 3",
    ]


def test_a_persistent_error_is_logged_once(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with RetryingSink("name", lambda: Recorder(fails_at=0)) as sink:
        for _ in range(5):
            sink.write(result(0))
            clock[0] += RETRY_SECONDS
    assert (sink.lost, str(sink.error)) == (5, "the disk is full")
    assert caplog.messages == ["name: the disk is full; next attempt in 10 s"]


def test_a_sink_that_is_not_resumable_is_not_retried(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(FinalRecorder(fails_at=1))
        return made[-1]

    with RetryingSink("name", make) as sink:
        for index in range(4):
            sink.write(result(index))
            clock[0] += 1e6
    assert (len(made), sink.lost, str(sink.error)) == (1, 3, "the disk is full")
    assert caplog.messages == ["name: the disk is full; nothing more is written there"]


def test_an_error_of_closing_counts_as_a_lost_result(caplog: pytest.LogCaptureFixture) -> None:
    with RetryingSink("name", lambda: Recorder(fails_to_close=True)) as sink:
        sink.write(result())
    assert (sink.lost, sink.failing, str(sink.error)) == (1, True, "the index could not be written")
    assert caplog.messages == ["name: the index could not be written; the file is incomplete"]


def test_an_error_of_closing_is_recorded_if_another_error_ends_the_block() -> None:
    sink = RetryingSink("name", lambda: Recorder(fails_to_close=True))
    with pytest.raises(KeyboardInterrupt):
        write_all(sink, [result()], error=KeyboardInterrupt())
    assert (sink.lost, sink.failing) == (1, True)


def test_the_first_error_is_kept() -> None:
    with RetryingSink("name", lambda: Recorder(fails_at=0, fails_to_close=True)) as sink:
        sink.write(result())
    assert str(sink.error) == "the disk is full"


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which Linux has")


@needs_full
def test_on_entering_a_full_disk_is_retried_and_other_errors_are_raised(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), RetryingSink("name", lambda: JsonlSink(tmp_path)):
        pytest.fail("opened")
    with RetryingSink("full", lambda: CsvSink(Path("/dev/full"), append=True)) as sink:  # no room for the header
        assert isinstance(sink.error, OSError)
        assert sink.error.errno == errno.ENOSPC
        sink.write(result())
    assert sink.lost == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_at_the_start_is_retried(clock: list[float], number: int) -> None:
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


def test_writing_continues_when_a_full_disk_gets_room(tmp_path: Path, clock: list[float]) -> None:
    """JSON lines continue in the same file, a recording in a new file. No file is begun while the disk is full."""
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
        assert sorted(path.suffixes[0] for path in disk.glob("yard-*")) == [".mkv", ".partial"]
        (complete,) = (path for path in disk.glob("yard-*") if ".partial" not in path.name)
        assert count_frames(complete)[0] == 2
        frames = [json.loads(line)["frame"] for line in (disk / "o.jsonl").read_text().splitlines()]
        assert frames == [*range(400 - lines.lost), 400, 401]
        assert 0 < lines.lost < 400


def test_a_stream_that_cannot_be_saved_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    recorders = {"a": FinalRecorder(fails_at=1), "b": Recorder()}
    per_stream = PerStreamSink(lambda stream: RetryingSink(stream, lambda: recorders[stream]))
    background = BackgroundSink(per_stream, capacity=32)
    with background as sink:
        for index in range(4):
            for stream in recorders:
                sink.write(replace(result(index), stream=stream))
        sink.end("a")
        wait_for(lambda: background.done == 5 and not background.failing)  # only stream b is open
    assert [recorder.indices for recorder in recorders.values()] == [[0], [0, 1, 2, 3]]
    assert (background.done, background.lost, str(background.error)) == (5, 3, "the disk is full")
    assert not background.failing
    assert caplog.messages == ["a: the disk is full; nothing more is written there"]


def test_older_files_are_continued(tmp_path: Path) -> None:
    lines, table = tmp_path / "o.jsonl", tmp_path / "o.csv"
    for index in range(2):
        with JsonlSink(lines, append=True) as jsonl_sink, CsvSink(table, append=True) as csv_sink:
            jsonl_sink.write(result(index))
            csv_sink.write(result(index))
            assert len(lines.read_text().splitlines()) == index + 1  # other programs can read the line at once
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [0, 1]
    header, *rows = table.read_text().splitlines()
    assert header == ",".join(HEADER)
    assert header not in rows
    assert len(rows) >= 2
    lines.write_text(lines.read_text()[:-5])
    with JsonlSink(lines, append=True) as jsonl_sink:
        jsonl_sink.write(result(2))
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == [0, 2]


def test_a_bug_in_a_sink_is_handled_like_other_errors() -> None:
    class Broken(Recorder):
        def write(self, _result: object) -> None:
            raise TypeError

    with RetryingSink("name", Broken) as sink:
        sink.write(result())
    assert sink.lost == 1


def test_a_truncated_header_is_written_again(tmp_path: Path) -> None:
    table = tmp_path / "o.csv"
    table.write_text(",".join(HEADER)[:20])
    for index in range(2):
        with CsvSink(table, append=True) as sink:
            sink.write(result(index))
    header, *rows = table.read_text().splitlines()
    assert (header, len(rows)) == (",".join(HEADER), 2)


def test_a_row_cut_inside_quotes_does_not_swallow_the_next(tmp_path: Path) -> None:
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


def test_a_table_that_was_emptied_gets_a_new_header(tmp_path: Path) -> None:
    """logrotate empties files with the option copytruncate."""
    table = tmp_path / "o.csv"
    with CsvSink(table, append=True) as sink:
        sink.write(result(0))
        os.truncate(table, 0)
        sink.write(result(1))
    with table.open(newline="") as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["1"]


@needs_full
def test_an_empty_frame_does_not_end_an_outage(clock: list[float]) -> None:
    sink = RetryingSink("full", lambda: CsvSink(Path("/dev/full"), append=True))
    with sink:
        for _ in range(3):
            clock[0] += RETRY_SECONDS
            sink.write(result(count=0))
        assert (sink.failing, sink.lost) == (True, 0)


def test_a_foreign_table_is_neither_continued_nor_overwritten(tmp_path: Path) -> None:
    table = tmp_path / "o.csv"
    table.write_text("day,trees\n")
    with pytest.raises(SinkError, match=r"expected a file that begins with stream,source,.*use another name"):
        RetryingSink("name", lambda: CsvSink(table, append=True)).__enter__()
    with pytest.raises(SinkError, match="neither continued nor overwritten; delete it, or use another name"):
        CsvSink(table).__enter__()
    assert table.read_text() == "day,trees\n"


def test_json_lines_can_be_written_to_a_pipe(tmp_path: Path) -> None:
    """A pipe has no size and no older lines."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with JsonlSink(pipe, append=True) as sink:
        sink.write(result(7))
    with os.fdopen(reader) as lines:
        assert json.loads(lines.read())["frame"] == 7
