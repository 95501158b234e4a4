"""DeliveryWorker: order, retries, refusals and the end, with a transport that fails on demand; addresses."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engines.core.errors import MissingDependencyError
from retina_edge.delivery import delivery_worker
from retina_edge.delivery.address import Address, AddressError
from retina_edge.delivery.delivery_worker import Backoff, DeliveryWorker
from retina_edge.delivery.receivers import deliver_to, open_transport
from retina_edge.delivery.spool import Spool
from retina_edge.delivery.spool_file import Message, SpoolError
from retina_edge.delivery.transport import MessageRefused, ReceiverUnreachable, Transport
from tests.events import first_times
from tests.waiting import wait_for

FAST = Backoff(0.001, 0.004)
# A folder in memory, where synchronizing to the disk costs nothing.
MEMORY_DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Recorder(Transport):
    """A transport that keeps the numbers of its messages.

    ``plan`` is called before a message is received, and again before it is confirmed. It may raise.
    """

    name = "recorder://here"

    def __init__(self, *, batch: int = 1, plan: Callable[[int], None] = lambda _: None) -> None:
        self.batch = batch
        self.received: list[int] = []
        self.connected = True
        self.closed = 0
        self.plan = plan

    def connect(self) -> bool:
        return self.connected

    def deliver(self, messages: Sequence[Message]) -> Iterator[Message]:
        for message in messages:
            number = json.loads(message.payload)["i"]
            self.plan(number)
            self.received.append(number)
            self.plan(number)
            yield message

    def close(self) -> None:
        self.closed += 1

    def abort(self) -> None:
        """Do nothing: ``deliver`` never waits."""


def test_messages_are_delivered_in_order_and_counted(tmp_path: Path) -> None:
    transport = Recorder(batch=4)
    with Spool(tmp_path / "s.db") as spool:
        with DeliveryWorker(spool, transport) as delivery:
            assert (delivery.state.pending, delivery.state.delivered) == (0, 0)
            for i in range(11):
                delivery.send({"i": i})
        assert transport.received == list(range(11))
        assert transport.closed == 1
        state = delivery.state
        assert (state.name, state.pending, state.delivered, state.failed, state.dropped) == (
            transport.name,
            0,
            11,
            0,
            0,
        )
        assert state.last_error is None
        assert state.connected_since is not None
        assert (
            abs(
                datetime.now(timezone.utc).timestamp()
                - datetime.fromisoformat(state.connected_since.replace("Z", "+00:00")).timestamp()
            )
            < 60
        )


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_failures_lose_nothing_and_keep_the_order(count: int, batch: int) -> None:
    rng = random.Random(batch)

    def plan(_number: int) -> None:
        if rng.random() < 0.01:
            raise ReceiverUnreachable("a fault was injected") if rng.random() < 0.9 else RuntimeError("a mistake")

    transport = Recorder(batch=batch, plan=plan)
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder, Spool(Path(folder) / "s.db") as spool:
        backoff = Backoff(1e-4, 5e-4)
        with DeliveryWorker(spool, transport, backoff=backoff, rng=random.Random(0)) as delivery:
            for i in range(count):
                delivery.send({"i": i})
            wait_for(lambda: not len(spool))
        assert (delivery.state.delivered, delivery.state.failed, delivery.state.dropped) == (count, 0, 0)
    assert first_times(transport.received) == list(range(count))
    repeats = len(transport.received) - count
    assert 0 < repeats < count * batch * 0.05
    # A retry starts with the first message that was not confirmed, never earlier.
    assert all(later - earlier <= 1 for earlier, later in zip(transport.received, transport.received[1:], strict=False))


def test_a_message_that_never_arrives_does_not_block_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def plan(number: int) -> None:
        if number in (3, 4):  # two in a row
            raise ReceiverUnreachable("HTTP 500")

    transport = Recorder(batch=4, plan=plan)
    with Spool(tmp_path / "s.db") as spool:
        with DeliveryWorker(spool, transport, backoff=FAST) as delivery:
            for i in range(8):
                delivery.send({"i": i})
            wait_for(lambda: not len(spool))
        assert (delivery.state.delivered, delivery.state.failed) == (6, 2)
        assert first_times(transport.received) == [0, 1, 2, 5, 6, 7]
        assert "HTTP 500; set aside after 10 attempts, because later messages are delivered" in caplog.text
        assert spool.restore() == 2


def test_an_outage_sets_nothing_aside(tmp_path: Path) -> None:
    down, attempts = threading.Event(), 0

    def plan(_number: int) -> None:
        nonlocal attempts
        attempts += 1
        if not down.is_set():
            raise ReceiverUnreachable("Connection refused")

    transport = Recorder(plan=plan)
    with Spool(tmp_path / "s.db") as spool:
        with DeliveryWorker(spool, transport, backoff=FAST) as delivery:
            for i in range(4):
                delivery.send({"i": i})
            wait_for(lambda: attempts > 50)
            down.set()
            wait_for(lambda: not len(spool))
        assert (delivery.state.delivered, delivery.state.failed) == (4, 0)
    assert first_times(transport.received) == [0, 1, 2, 3]


def test_a_refused_message_is_set_aside_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def plan(number: int) -> None:
        if number % 3 == 1:
            raise MessageRefused("the server refuses the message (400)")

    transport = Recorder(batch=5, plan=plan)
    with Spool(tmp_path / "s.db") as spool:
        with DeliveryWorker(spool, transport, backoff=FAST) as delivery:
            for i in range(9):
                delivery.send({"i": i})
        assert transport.received == [0, 2, 3, 5, 6, 8]
        assert (delivery.state.failed, delivery.state.delivered, delivery.state.pending) == (3, 6, 0)
        assert delivery.state.last_error == "the server refuses the message (400)"
        assert spool.restore() == 3
        assert [json.loads(message.payload)["i"] for message in spool.peek(9)] == [1, 4, 7]
    assert caplog.text.count("(400); set aside") == 1


def test_a_refusal_shows_that_the_receiver_is_reachable(tmp_path: Path) -> None:
    """Without a connection between messages, only an answer of any kind shows that the receiver is reachable."""
    answers: list[Exception] = [MessageRefused("no"), ReceiverUnreachable("down"), MessageRefused("no")]
    seen: list[bool] = []

    def plan(_number: int) -> None:
        seen.append(delivery.state.connected_since is not None)
        if answers:
            raise answers.pop(0)

    transport = Recorder(plan=plan)
    transport.connected = False
    with Spool(tmp_path / "s.db") as spool, DeliveryWorker(spool, transport, backoff=FAST) as delivery:
        for i in range(3):
            delivery.send({"i": i})
        wait_for(lambda: delivery.state.delivered == 1)
        assert delivery.state.failed == 2
    # At the first message, at the second, at its retry after the outage, and before and after receiving the third.
    assert seen == [False, True, False, True, True]


def test_an_outage_is_logged_once_and_shown_in_the_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    down = threading.Event()
    down.set()
    attempts = 0

    def plan(_number: int) -> None:
        nonlocal attempts
        attempts += 1
        if down.is_set():
            raise ReceiverUnreachable("the line is down")

    with Spool(tmp_path / "s.db") as spool, DeliveryWorker(spool, Recorder(plan=plan), backoff=FAST) as delivery:
        delivery.send({"i": 0})
        wait_for(lambda: attempts > 5)
        state = delivery.state
        assert (state.connected_since, state.last_error, state.pending) == (None, "the line is down", 1)
        assert state.last_error_at is not None
        assert caplog.text.count("the line is down") == 1
        down.clear()
        wait_for(lambda: delivery.state.delivered == 1)
        assert delivery.state.connected_since is not None


def test_undelivered_messages_are_sent_after_the_next_start(tmp_path: Path) -> None:
    def plan(number: int) -> None:
        if number >= 2:
            raise ReceiverUnreachable("down")

    with Spool(tmp_path / "s.db") as spool:
        with DeliveryWorker(spool, Recorder(plan=plan), backoff=Backoff(60, 60)) as delivery:
            for i in range(4):
                delivery.send({"i": i})
            wait_for(lambda: delivery.state.last_error is not None)
            start = time.monotonic()
        assert time.monotonic() - start < 20  # the end interrupts the back-off
        assert delivery.state.pending == 2
    second = Recorder()
    with Spool(tmp_path / "s.db") as spool, DeliveryWorker(spool, second):
        pass
    assert second.received == [2, 3]


def test_the_error_of_mqtt_without_paho_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[serve\]'"):
        open_transport("mqtt://host/a", client_id="me", environ={})


def test_the_end_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_worker, "GRACE_SECONDS", 0.3)
    release = threading.Event()

    class Hanging(Recorder):
        def deliver(self, messages: Sequence[Message]) -> Iterator[Message]:
            release.wait(30)
            yield from messages

    class Slow(Recorder):
        def deliver(self, messages: Sequence[Message]) -> Iterator[Message]:
            for message in messages:
                time.sleep(0.05)
                yield message

    for transport in (Hanging(), Slow(batch=10)):
        with Spool(tmp_path / "s.db") as spool:
            delivery = DeliveryWorker(spool, transport)
            delivery.stop()  # a worker that never started
            delivery = DeliveryWorker(spool, transport)
            with delivery:
                for i in range(30):
                    delivery.send({"i": i})
                time.sleep(0.1)
                start = time.monotonic()
                delivery.stop(timeout=0.3)
                assert time.monotonic() - start < 10  # the transport hangs for 30 s
            remaining = len(spool)
            assert 0 < remaining <= 60
        release.set()
    assert caplog.text.count("hangs and is left behind") >= 1
    wait_for(lambda: not any(thread.name == "delivery" for thread in threading.enumerate()))
    with Spool(tmp_path / "s.db") as spool:
        assert len(spool) == remaining


def test_the_back_off_doubles_within_its_bounds() -> None:
    rng = random.Random(0)
    backoff = Backoff()
    for attempt in range(1, 200):
        delays = [backoff.delay(attempt, rng) for _ in range(50)]
        full = min(60.0, 0.5 * 2**attempt)
        assert all(max(0.5, full / 2) <= delay <= full for delay in delays)
        assert len(set(delays)) > 10
    with pytest.raises(ValueError, match="0 < first <= longest"):
        Backoff(2, 1)


def test_a_receiver_may_ask_for_a_longer_wait(tmp_path: Path) -> None:
    moments: list[float] = []

    def plan(_number: int) -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise ReceiverUnreachable("busy", retry_after=0.3)

    with Spool(tmp_path / "s.db") as spool, DeliveryWorker(spool, Recorder(plan=plan), backoff=FAST) as delivery:
        delivery.send({"i": 0})
        wait_for(lambda: delivery.state.delivered == 1)
    assert 0.3 <= moments[1] - moments[0] < 10


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("mqtt://u:hunter2@host", "expected a topic"),
        ("mqtt://u:hunter2@host/a/+", "without \\+ and #"),
        ("mqtt://u:hunter2@host/$SYS/a", "expected a topic"),
        ("mqtt://u:hunter2@host/a?retain=1&client_id=x", "only client_id=NAME after \\?"),
        ("mqtt://u:hunter2@host/a?client_id=", "only client_id=NAME after \\?"),
        ("mqtt://u:hunter2@host/#", "without spaces or #"),
        ("mqtt://u:hunter2@/a", "expected mqtt://"),
        ("ftp://u:hunter2@host/a", "expected an event receiver"),
        ("https://u:hunter2@host:port/a", "the host or the port"),
        ("https://u:hunter2@[::1/a", "the host or the port"),
        ("https://u:hunter2@host/a b", "without spaces"),
        ("host/topic", "expected an event receiver"),
    ],
)
def test_unusable_addresses_are_refused_without_showing_the_password(address: str, message: str) -> None:
    with pytest.raises(AddressError, match=message) as caught:
        open_transport(address, client_id="me", environ={})
    assert "hunter2" not in str(caught.value)


def test_addresses_are_parsed_and_displayed_without_secrets() -> None:
    parsed = Address.parse("mqtts://us%40er:p%2Fw%23@[::1]:9/a/b?client_id=x", {})
    assert (parsed.host, parsed.port, parsed.user, parsed.password) == ("::1", 9, "us@er", "p/w#")
    names = {
        "mqtts://user:hunter2@[::1]:9/a/b": "mqtts://[::1]:9/a/b",
        "https://user:hunter2@example.org/hunter2?token=hunter2": "https://example.org/***",
        "http://example.org": "http://example.org",
    }
    for address, name in names.items():
        assert open_transport(address, client_id="me", environ={}).name == name
    environ = {"RETINA_EDGE_EVENTS_PASSWORD": "hunter2"}
    assert Address.parse("mqtt://user@host/a", environ).password == "hunter2"
    assert Address.parse("mqtt://user:own@host/a", environ).password == "own"
    assert Address.parse("mqtt://host/a", environ).password is None


def test_a_spool_in_use_is_an_error_at_the_start(tmp_path: Path) -> None:
    delivery = deliver_to("http://127.0.0.1:9/", tmp_path / "s.db", environ={})
    with Spool(tmp_path / "s.db"), pytest.raises(SpoolError, match="uses this spool"), delivery:
        pass
