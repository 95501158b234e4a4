"""EventDispatcher: order of events, independence of receivers, a disk that hangs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retina_edge.delivery import event_dispatcher
from retina_edge.delivery.delivery_worker import DeliveryWorker
from retina_edge.delivery.event_dispatcher import EventDispatcher
from retina_edge.delivery.receivers import deliver_to
from retina_edge.delivery.spool_file import SpoolError, SpoolFile
from tests.events import entered
from tests.waiting import wait_for


class Recorder(DeliveryWorker):
    """A delivery that keeps its messages. ``plan`` may wait or raise before each one."""

    def __init__(self, plan: Callable[[int], None] = lambda _track: None) -> None:
        self.taken: list[Mapping[str, Any]] = []
        self._plan = plan

    def send(self, message: Mapping[str, Any]) -> None:
        self._plan(message["track"])
        self.taken.append(message)

    @property
    def tracks(self) -> list[int]:
        return [message["track"] for message in self.taken]


class Gate:
    """A disk that hangs from its first write until ``opened`` is set."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *_args: object) -> None:
        self.reached.set()
        assert self.opened.wait(20)


def no_dispatcher_thread() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "events"]


@pytest.mark.parametrize("count", [0, 1, 50])
def test_each_receiver_gets_every_event_in_order(count: int) -> None:
    receivers = [Recorder(), Recorder()]
    with EventDispatcher(receivers) as dispatcher:
        for track in range(count):
            dispatcher.send(entered(track))
    assert receivers[0].tracks == list(range(count))
    assert receivers[0].taken == receivers[1].taken  # including the id
    assert len({message["id"] for message in receivers[0].taken}) == count
    assert all(
        {**message, "id": ""} == {"id": "", **entered(message["track"]).to_dict()} for message in receivers[0].taken
    )
    assert dispatcher.dropped == 0
    assert no_dispatcher_thread()


def test_without_receivers_no_event_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_dispatcher, "MAX_WAITING_EVENTS", 1)
    with EventDispatcher([]) as dispatcher:
        for track in range(5):
            dispatcher.send(entered(track))
    assert dispatcher.dropped == 0


def test_a_failing_spool_does_not_hold_up_other_receivers(caplog: pytest.LogCaptureFixture) -> None:
    def fail(track: int) -> None:
        if track < 2:
            raise SpoolError("the disk is full") if track else ValueError("too large")

    failing, working = Recorder(fail), Recorder()
    with EventDispatcher([failing, working]) as dispatcher:
        for track in range(4):
            dispatcher.send(entered(track))
    assert (failing.tracks, working.tracks) == ([2, 3], [0, 1, 2, 3])
    assert [record.getMessage() for record in caplog.records] == ["too large", "the disk is full"]
    assert dispatcher.dropped == 0  # the spool itself counts messages that it keeps in memory or refuses


def test_the_queue_is_bounded_and_counts_dropped_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_dispatcher, "MAX_WAITING_EVENTS", 3)
    disk = Gate()
    receiver = Recorder(disk)
    with EventDispatcher([receiver]) as dispatcher:
        dispatcher.send(entered(0))
        assert disk.reached.wait(20)  # the event has left the queue
        for track in range(1, 8):
            dispatcher.send(entered(track))
        assert dispatcher.dropped == 4
        disk.opened.set()
        wait_for(lambda: receiver.tracks == [0, 1, 2, 3])
        dispatcher.send(entered(8))
    assert receiver.tracks == [0, 1, 2, 3, 8]
    assert dispatcher.dropped == 4


def test_the_end_waits_for_a_slow_disk() -> None:
    disk = Gate()
    receiver = Recorder(disk)
    with EventDispatcher([receiver]) as dispatcher:
        for track in range(3):
            dispatcher.send(entered(track))
        assert disk.reached.wait(20)
        threading.Timer(0.05, disk.opened.set).start()
    assert receiver.tracks == [0, 1, 2]
    assert dispatcher.dropped == 0


def test_the_end_is_bounded_when_the_disk_of_the_spool_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_dispatcher, "SPOOL_TIMEOUT", 0.2)
    disk, append = Gate(), SpoolFile.append

    def hang(*args: Any, **kwargs: Any) -> Any:
        disk()
        return append(*args, **kwargs)

    monkeypatch.setattr(SpoolFile, "append", hang)
    with deliver_to("http://127.0.0.1:9/", tmp_path / "s.db", environ={}) as delivery:
        with EventDispatcher([delivery]) as dispatcher:
            dispatcher.send(entered(0))
            assert disk.reached.wait(20)
            for track in range(1, 5):
                dispatcher.send(entered(track))
            assert (dispatcher.dropped, delivery.state.pending) == (0, 1)  # does not wait for the disk
            start = time.monotonic()
        assert time.monotonic() - start < 5
        assert dispatcher.dropped == 5
        assert "the disk of the spool does not answer; up to 5 events are lost" in caplog.text
        disk.opened.set()
        wait_for(no_dispatcher_thread)
        # The event that was being written arrived after all. The others were dropped.
        assert delivery.state.pending == 1
    assert dispatcher.dropped == 4


def test_written_events_are_not_dropped_if_the_thread_is_slow_to_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The marker that ends the thread is still in the queue, but no event is."""
    monkeypatch.setattr(event_dispatcher, "SPOOL_TIMEOUT", 0.05)
    may_end = threading.Event()

    class SlowQueue(queue.SimpleQueue[Any]):
        def get(self, *_args: Any, **_options: Any) -> Any:
            if receiver.tracks == [0, 1]:
                assert may_end.wait(20)
            return super().get()

    monkeypatch.setattr(event_dispatcher, "queue", SimpleNamespace(SimpleQueue=SlowQueue))
    receiver = Recorder()
    with EventDispatcher([receiver]) as dispatcher:
        for track in range(2):
            dispatcher.send(entered(track))
        wait_for(lambda: receiver.tracks == [0, 1])
    assert dispatcher.dropped == 0
    assert caplog.messages == []
    may_end.set()
    wait_for(no_dispatcher_thread)
    assert dispatcher.dropped == 0
