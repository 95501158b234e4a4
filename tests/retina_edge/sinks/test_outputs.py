"""Outputs: their names and status, errors that are raised or logged, the end of a stream and of the run."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import pytest

from engines.core.errors import RetinaEdgeError
from retina_edge.delivery import event_dispatcher
from retina_edge.pipeline.result import Result
from retina_edge.sinks import retrying_sink
from retina_edge.sinks.outputs import QUEUE_CAPACITY, Outputs, OutputStatus, open_outputs
from retina_edge.system.folders import event_spool
from tests.events import entered
from tests.results import result
from tests.retina_edge.sinks.recorder import Recorder
from tests.waiting import wait_for
from tests.webhook_server import Handler, Server, serving, status


class SavingRecorder(Recorder):
    """A recorder that signals the beginning of its first write, and reports written files."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        super().__init__(fails_at=fails_at)
        self.reached = threading.Event()

    @property
    def closed(self) -> int:
        return len(self.closed_with)

    def write(self, result: Result) -> None:
        self.reached.set()
        super().write(result)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.written = () if error else (Path("shown.mp4"), Path("folder"))


def live(index: int, *, stream: str = "a", events: int = 0) -> Result:
    return replace(
        result(index, live=True), stream=stream, events=tuple(entered(10 * index + i) for i in range(events))
    )


def status_of(outputs: Outputs, name: str) -> OutputStatus:
    (found,) = [status for status in outputs.status() if status.name == name]
    return found


def running_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("sink ", "events", "delivery"))]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


@pytest.fixture
def unused_address() -> str:
    """Return an address where no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_run_without_outputs_accepts_results() -> None:
    with open_outputs(strict=True) as outputs:
        outputs.write(live(0, events=2))
        outputs.end("a")
        assert (outputs.status(), outputs.incomplete, outputs.written, outputs.seconds) == ([], [], [], 0)


def test_each_file_gets_every_result_and_is_complete_at_the_end(tmp_path: Path, server: Server) -> None:
    lines, table, recorder = tmp_path / "new" / "o.jsonl", tmp_path / "o.csv", SavingRecorder()
    address = f"http://127.0.0.1:{server.port}/secret"
    with open_outputs(
        jsonl=lines,
        csv=table,
        save=tmp_path / "shown",
        open_sink=lambda _stream: recorder,
        receivers=[address],
        spool=tmp_path / "spool",
        strict=True,
    ) as outputs:
        for index in range(3):
            outputs.write(live(index, events=index))
        name = f"http://127.0.0.1:{server.port}/***"
        wait_for(lambda: [status.done for status in outputs.status()] == [3, 3, 3, 3])
        assert outputs.status() == [
            OutputStatus(str(lines), "file", "ok", 0, 3, 0, 0, ""),
            OutputStatus(str(table), "file", "ok", 0, 3, 0, 0, ""),
            OutputStatus(str(tmp_path / "shown"), "file", "ok", 0, 3, 0, 0, ""),
            OutputStatus(name, "events", "ok", 0, 3, 0, 0, ""),
        ]
        assert outputs.written == []
    assert outputs.written == [lines, table, Path("shown.mp4"), Path("folder")]
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == recorder.indices == [0, 1, 2]
    assert [json.loads(body)["track"] for _, _, body in server.requests] == [10, 20, 21]
    assert [status.state for status in outputs.status()] == ["ok"] * 4
    assert outputs.incomplete == []
    assert running_threads() == []
    assert outputs.seconds > 0
    assert "secret" not in "".join(path.name for path in (tmp_path / "spool").iterdir())


def test_the_end_of_a_stream_closes_only_its_own_sink(tmp_path: Path) -> None:
    recorders: dict[str, SavingRecorder] = {}
    with open_outputs(
        save=tmp_path, open_sink=lambda stream: recorders.setdefault(stream, SavingRecorder()), strict=True
    ) as outputs:
        for stream in ("a", "b"):
            outputs.write(live(0, stream=stream))
        outputs.end("a")
        outputs.end("unknown")
        outputs.write(live(1, stream="b"))
        wait_for(lambda: status_of(outputs, str(tmp_path)).done == 3)
        assert [recorders[stream].closed for stream in ("a", "b")] == [1, 0]
    assert [recorders[stream].closed for stream in ("a", "b")] == [1, 1]
    assert recorders["b"].indices == [0, 1]
    assert outputs.written == [Path("shown.mp4"), Path("folder")]  # each path once, for two streams


def test_names_are_unique_and_printable(tmp_path: Path) -> None:
    """Names hide paths, so two webhooks may get the same name; a number is appended until a name is unique."""
    receivers = [
        "http://127.0.0.1:9/secret",
        "http://127.0.0.1:9/other",
        "mqtt://127.0.0.1:9/a",
        "mqtt://127.0.0.1:9/%61",
        "mqtt://127.0.0.1:9/a%20(2)",
    ]
    lines = tmp_path / os.fsdecode(b"\xff.jsonl")
    with open_outputs(jsonl=lines, csv=tmp_path / "o", receivers=receivers, spool=tmp_path, strict=True) as outputs:
        assert [status.name for status in outputs.status()] == [
            f"{tmp_path}/\\udcff.jsonl",
            f"{tmp_path}/o",
            "http://127.0.0.1:9/***",
            "http://127.0.0.1:9/*** (2)",
            "mqtt://127.0.0.1:9/a",
            "mqtt://127.0.0.1:9/a (2)",
            "mqtt://127.0.0.1:9/a (2) (2)",
        ]


@pytest.mark.parametrize("second", ["http://u:one@127.0.0.1:9/", "http://u:two@127.0.0.1:9/"])
def test_a_repeated_address_is_an_error(second: str, tmp_path: Path) -> None:
    """Addresses with different passwords are repeated too, because they have the same spool."""
    receivers = ["http://u:one@127.0.0.1:9/", second]
    with (
        pytest.raises(RetinaEdgeError, match="expected each address once"),
        open_outputs(receivers=receivers, spool=tmp_path, strict=True),
    ):
        pytest.fail("opened")
    assert list(tmp_path.iterdir()) == []
    assert running_threads() == []


@pytest.mark.parametrize("strict", [False, True])
def test_an_error_of_opening_is_raised_and_leaves_nothing_open(
    strict: bool, tmp_path: Path, unused_address: str
) -> None:
    with (
        pytest.raises(IsADirectoryError),
        open_outputs(
            jsonl=tmp_path / "o", csv=tmp_path, receivers=[unused_address], spool=tmp_path / "s", strict=strict
        ),
    ):
        pytest.fail("opened")
    assert running_threads() == []


def test_a_slow_file_waits_and_then_reports_dropped_results(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = SavingRecorder()
    recorder.gate.clear()
    with open_outputs(save=tmp_path, open_sink=lambda _stream: recorder, strict=False) as outputs:
        outputs.write(live(0))
        assert recorder.reached.wait(20)  # the result has left the queue
        for index in range(1, QUEUE_CAPACITY):
            outputs.write(live(index))
        assert status_of(outputs, str(tmp_path)) == OutputStatus(
            str(tmp_path), "file", "ok", QUEUE_CAPACITY - 1, 0, 0, 0, ""
        )
        for index in range(QUEUE_CAPACITY, QUEUE_CAPACITY + 3):
            outputs.write(live(index))
        assert status_of(outputs, str(tmp_path)) == OutputStatus(
            str(tmp_path), "file", "waiting", QUEUE_CAPACITY, 0, 2, 0, ""
        )
        recorder.gate.set()
        wait_for(lambda: status_of(outputs, str(tmp_path)).done == QUEUE_CAPACITY + 1)
        assert status_of(outputs, str(tmp_path)) == OutputStatus(
            str(tmp_path), "file", "lost", 0, QUEUE_CAPACITY + 1, 2, 0, ""
        )
    assert recorder.indices == [0, *range(3, QUEUE_CAPACITY + 3)]
    assert outputs.incomplete == []  # a slow file may drop results of a live stream
    assert caplog.messages == []


def test_a_file_that_fails_is_logged_and_does_not_hold_up_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines, recorder = tmp_path / "o.jsonl", SavingRecorder(fails_at=1)
    with open_outputs(jsonl=lines, save=tmp_path, open_sink=lambda _stream: recorder, strict=False) as outputs:
        outputs.write(live(0))
        outputs.write(live(1))
        wait_for(lambda: status_of(outputs, str(tmp_path)).state == "failed")
        assert caplog.messages == ["the disk is full; nothing more is written there"]
        for index in (2, 3):
            outputs.write(live(index))
        wait_for(lambda: status_of(outputs, str(lines)).done == 4)
        failed = OutputStatus(str(tmp_path), "file", "failed", 0, 1, 0, 3, "the disk is full")
        assert outputs.incomplete == [failed]
    assert outputs.incomplete == [failed]
    assert outputs.written == [lines]
    assert len(lines.read_text().splitlines()) == 4
    assert caplog.messages[1:] == [f"outputs failed: {tmp_path}: 3 results lost (the disk is full)"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which Linux has")
def test_older_files_are_continued_and_lost_results_are_logged_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to a full device is replaced by a link to a file, like a disk that gets room."""
    monkeypatch.setattr(retrying_sink, "RETRY_SECONDS", 0.2)
    lines, older = tmp_path / "o.jsonl", tmp_path / "older.jsonl"
    with open_outputs(jsonl=older, strict=False) as outputs:
        outputs.write(live(0))
    lines.symlink_to("/dev/full")
    with open_outputs(jsonl=lines, strict=False) as outputs:
        outputs.write(live(1))
        wait_for(lambda: status_of(outputs, str(lines)).state == "failed")
        lines.unlink()
        lines.symlink_to(older)
        time.sleep(0.3)
        outputs.write(live(2))
        error = f"[Errno 28] No space left on device: '{lines}'"
        lost = OutputStatus(str(lines), "file", "lost", 0, 1, 0, 1, error)
        wait_for(lambda: status_of(outputs, str(lines)) == lost)
    assert outputs.incomplete == [lost]
    assert caplog.messages[-1] == f"outputs failed: {lines}: 1 result lost ({error})"
    assert [json.loads(line)["frame"] for line in older.read_text().splitlines()] == [0, 2]


def test_strict_overwrites_older_files(tmp_path: Path) -> None:
    for index in range(2):
        with open_outputs(jsonl=tmp_path / "o", csv=tmp_path / "c", strict=True) as outputs:
            outputs.write(live(index))
    assert [json.loads(line)["frame"] for line in (tmp_path / "o").read_text().splitlines()] == [1]
    assert len((tmp_path / "c").read_text().splitlines()) == 2


def test_strict_raises_at_the_next_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(outputs: Outputs) -> None:
        outputs.write(live(0))
        wait_for(lambda: status_of(outputs, str(tmp_path)).state == "failed")
        outputs.write(live(1))
        pytest.fail("the second write did not raise")

    run_strictly(tmp_path, write)
    assert caplog.messages == []


def test_strict_raises_at_the_end_if_no_result_follows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_strictly(tmp_path, lambda outputs: outputs.write(live(0)))
    assert caplog.messages == []


def run_strictly(folder: Path, block: Callable[[Outputs], None]) -> None:
    """Run a block whose first result cannot be saved, and check that the other file is closed properly."""
    lines, recorder = folder / "o.jsonl", SavingRecorder(fails_at=0)
    with (
        pytest.raises(OSError, match="the disk is full"),
        open_outputs(jsonl=lines, save=folder, open_sink=lambda _stream: recorder, strict=True) as outputs,
    ):
        block(outputs)
    assert [status.name for status in outputs.incomplete] == [str(folder)]
    assert recorder.closed == 1
    assert json.loads(lines.read_text().splitlines()[0])["frame"] == 0
    assert running_threads() == []


def test_events_wait_for_an_unreachable_receiver(
    unused_address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_outputs(receivers=[unused_address], spool=tmp_path, strict=True) as outputs:
        assert status_of(outputs, unused_address).state == "ok"  # no event waits
        outputs.write(live(0, events=2))
        error = "the server cannot be reached: Connection refused"
        waiting = OutputStatus(unused_address, "events", "waiting", 2, 0, 0, 0, error)
        wait_for(lambda: status_of(outputs, unused_address) == waiting)
    assert status_of(outputs, unused_address) == waiting
    assert outputs.incomplete == []  # the events are sent after the next start
    assert not [message for message in caplog.messages if "outputs failed" in message]


def test_events_that_a_receiver_refuses_are_lost(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers += [status(200), status(400)]
    name = f"http://127.0.0.1:{server.port}"
    with open_outputs(receivers=[name], spool=tmp_path, strict=True) as outputs:
        outputs.write(live(0, events=3))
        lost = OutputStatus(name, "events", "lost", 0, 2, 0, 1, "the server refuses the message (400)")
        wait_for(lambda: status_of(outputs, name) == lost)
        assert outputs.incomplete == [lost]
    assert f"outputs failed: {name}: 1 event lost (the server refuses the message (400))" in caplog.messages


def test_a_receiver_that_refuses_an_event_counts_as_reachable(server: Server, tmp_path: Path) -> None:
    """A refusal is an answer, so the state is not "waiting", although the next event still waits."""
    answered = threading.Event()

    def later(handler: Handler) -> None:
        assert answered.wait(20)
        status(200)(handler)

    server.answers += [status(400), later]
    name = f"http://127.0.0.1:{server.port}"
    with open_outputs(receivers=[name], spool=tmp_path, strict=True) as outputs:
        outputs.write(live(0, events=2))
        wait_for(lambda: len(server.requests) == 2)
        refused = OutputStatus(name, "events", "lost", 1, 0, 0, 1, "the server refuses the message (400)")
        assert status_of(outputs, name) == refused
        answered.set()
        wait_for(lambda: status_of(outputs, name) == replace(refused, waiting=0, done=1))


def test_events_dropped_before_the_spools_count_for_every_receiver(
    server: Server, unused_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_dispatcher, "MAX_WAITING_EVENTS", 0)
    name = f"http://127.0.0.1:{server.port}"
    with open_outputs(receivers=[name, unused_address], spool=tmp_path, strict=False) as outputs:
        outputs.write(live(0, events=2))
        lost = [OutputStatus(receiver, "events", "lost", 0, 0, 2, 0, "") for receiver in (name, unused_address)]
        assert outputs.status() == outputs.incomplete == lost
    assert server.requests == []


def test_a_status_as_text_says_what_was_lost() -> None:
    ok = OutputStatus("o", "file", "ok", 0, 1, 0, 0, "")
    assert [str(replace(ok, lost=2)), str(replace(ok, kind="events", dropped=1, lost=2, error="e"))] == [
        "o: 2 results lost",
        "o: 3 events lost (e)",
    ]
    # The index of a video could not be written, although every result was taken.
    assert str(replace(ok, state="failed", error="e")) == "o: incomplete (e)"


def test_the_folder_of_the_spools(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert event_spool() == Path("/home/me/.local/state/retina_edge/events")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert event_spool() == Path("/state/retina_edge/events")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/service")
    assert event_spool() == Path("/var/lib/service/retina_edge/events")
