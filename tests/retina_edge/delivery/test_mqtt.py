"""MQTT: events to a real broker, its restarts, a killed process, passwords, TLS, the last will."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from retina_edge.delivery.address import Address
from retina_edge.delivery.delivery_worker import Backoff
from retina_edge.delivery.mqtt import MqttTransport
from retina_edge.delivery.receivers import deliver_to
from retina_edge.delivery.spool import Spool
from retina_edge.delivery.spool_file import Message
from retina_edge.delivery.transport import ReceiverUnreachable
from tests.events import first_times, make_certificate
from tests.waiting import wait_for

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SECRET = "hunter2"
QUICK = Backoff(0.05, 0.1)
# File descriptors that a connection's thread may not have closed yet.
MAX_CLOSING = 3

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto, the broker of these tests")


class Broker:
    """A mosquitto on loopback that keeps its subscriptions across restarts."""

    def __init__(self, folder: Path, *, options: str = "allow_anonymous true") -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port: int = server.getsockname()[1]
        self._config, self._database = folder / "mosquitto.conf", folder / "mosquitto.db"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nuser {getpass.getuser()}\npersistence true\n"
            f"persistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true\n{options}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        wait_for(self._listens)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "mosquitto ended"
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def has_saved(self, text: bytes) -> bool:
        """Return True if the file with the state of the broker contains a text."""
        return self._database.exists() and text in self._database.read_bytes()

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self.send(signal.SIGCONT)
            self.send(number)
            self._process.wait(10)
            self._process = None


class Subscriber:
    """Subscribes to ``cameras/#``. The broker keeps messages for it while it is disconnected."""

    def __init__(self, port: int, *, client_id: str = "subscriber") -> None:
        self.events: list[int] = []
        self.status: list[str] = []
        subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
        self._client.reconnect_delay_set(0.05, 0.1)  # type: ignore[arg-type]

        def on_connect(client: Client, *_: Any) -> None:
            client.subscribe("cameras/#", qos=1)

        def on_message(_client: Client, _data: Any, message: Any) -> None:
            if message.topic.endswith("/status"):
                self.status.append(message.payload.decode())
            else:
                assert message.topic == "cameras/gate"
                self.events.append(json.loads(message.payload)["i"])

        self._client.on_connect, self._client.on_message = on_connect, on_message
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    mosquitto = Broker(folder)
    mosquitto.start()
    yield mosquitto
    mosquitto.end()


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    client = Subscriber(broker.port)
    yield client
    client.close()


def address_of(broker: Broker, login: str = "") -> str:
    return f"mqtt://{login}127.0.0.1:{broker.port}/cameras/gate"


def test_events_arrive_in_order_and_the_status_topic_is_set(
    broker: Broker, subscriber: Subscriber, tmp_path: Path
) -> None:
    with deliver_to(address_of(broker), tmp_path / "s.db", environ={}) as delivery:
        for i in range(200):
            delivery.send({"i": i, "name": "naïve"})
        wait_for(lambda: delivery.state.delivered == 200)
        assert delivery.state.connected_since is not None
        wait_for(lambda: subscriber.status == ["online"])
    wait_for(lambda: len(subscriber.events) == 200 and subscriber.status == ["online", "offline"])
    assert subscriber.events == list(range(200))
    assert (delivery.state.pending, delivery.state.failed, delivery.state.last_error) == (0, 0, None)
    late = Subscriber(broker.port, client_id="late")  # gets the retained status
    wait_for(lambda: late.status == ["offline"])
    late.close()


def test_no_event_is_lost_when_the_broker_is_killed(broker: Broker, subscriber: Subscriber, tmp_path: Path) -> None:
    with deliver_to(address_of(broker), tmp_path / "s.db", environ={}, backoff=QUICK) as delivery:
        for i in range(20):
            delivery.send({"i": i})
        wait_for(lambda: len(subscriber.events) == 20)
        wait_for(lambda: broker.has_saved(b"cameras/#"))  # the subscription, which must outlive the broker
        broker.end(signal.SIGKILL)
        for i in range(20, 120):
            delivery.send({"i": i})
        wait_for(lambda: "Connection refused" in (delivery.state.last_error or ""))
        assert (delivery.state.pending, delivery.state.connected_since) == (100, None)
        broker.start()
        wait_for(lambda: delivery.state.delivered == 120)
        assert delivery.state.connected_since is not None
        wait_for(lambda: subscriber.events[-1] == 119)
    assert first_times(subscriber.events) == list(range(120))
    assert delivery.state.dropped == 0


def test_restarts_of_the_broker_lose_nothing_and_keep_the_order(
    broker: Broker, subscriber: Subscriber, tmp_path: Path
) -> None:
    with deliver_to(address_of(broker), tmp_path / "s.db", environ={}, backoff=QUICK) as delivery:
        for i in range(300):
            delivery.send({"i": i})
            if i in (100, 200):
                broker.end(signal.SIGTERM)  # saves the confirmed messages
                broker.start()
        wait_for(lambda: not delivery.state.pending)
        wait_for(lambda: bool(subscriber.events) and subscriber.events[-1] == 299)
    assert first_times(subscriber.events) == list(range(300))


def test_an_idle_connection_reconnects_and_reports_it(broker: Broker, subscriber: Subscriber, tmp_path: Path) -> None:
    with deliver_to(address_of(broker), tmp_path / "s.db", environ={}, backoff=QUICK) as delivery:
        wait_for(lambda: subscriber.status == ["online"])
        broker.end()
        wait_for(lambda: delivery.state.connected_since is None)
        broker.start()
        wait_for(lambda: delivery.state.connected_since is not None)
        wait_for(lambda: subscriber.status[-1] == "online" and len(subscriber.status) >= 2)


def test_a_stopped_broker_is_unreachable_and_the_end_is_bounded(broker: Broker, tmp_path: Path) -> None:
    transport = MqttTransport(Address.parse(address_of(broker), {}), client_id="me", timeout=0.4)
    assert transport.connect()
    message = Message(1, "0" * 32, b'{"i":0}')
    assert list(transport.deliver([message])) == [message]
    broker.send(signal.SIGSTOP)
    with pytest.raises(ReceiverUnreachable, match=r"does not answer within 0\.4 s"):
        list(transport.deliver([message]))
    with pytest.raises(ReceiverUnreachable, match=r"does not answer within 0\.4 s"):
        transport.connect()  # the kernel accepts, the broker does not
    broker.send(signal.SIGCONT)
    wait_for(lambda: connects(transport))
    broker.send(signal.SIGSTOP)
    transport.close()

    broker.send(signal.SIGCONT)
    with deliver_to(address_of(broker), tmp_path / "s.db", environ={}) as delivery:
        wait_for(lambda: delivery.state.connected_since is not None)
        broker.send(signal.SIGSTOP)
        delivery.send({"i": 0})
        time.sleep(0.2)
        start = time.monotonic()
        delivery.stop(timeout=0.3)
        assert time.monotonic() - start < 5  # a confirmation may take 10 s
    with Spool(tmp_path / "s.db") as spool:
        assert len(spool) == 1


def connects(transport: MqttTransport) -> bool:
    try:
        return transport.connect()
    except ReceiverUnreachable:
        return False


def test_events_of_a_killed_process_are_delivered_by_the_next_one(
    broker: Broker, subscriber: Subscriber, tmp_path: Path
) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom retina_edge.delivery.receivers import deliver_to\n"
        "with deliver_to(sys.argv[1], Path(sys.argv[2]), environ={}) as delivery:\n"
        "    for i in range(50): delivery.send({'i': i})\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    broker.send(signal.SIGSTOP)  # accepts connections, but confirms nothing
    arguments = [sys.executable, "-c", code, address_of(broker), str(tmp_path / "s.db")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    broker.send(signal.SIGCONT)
    with deliver_to(address_of(broker), tmp_path / "s.db", environ={}) as delivery:
        delivery.send({"i": 50})
        wait_for(lambda: len(set(subscriber.events)) == 51)
    assert first_times(subscriber.events) == list(range(51))
    wait_for(lambda: subscriber.status[-1] == "offline")


def test_a_killed_process_triggers_its_last_will(broker: Broker, subscriber: Subscriber, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom retina_edge.delivery.receivers import deliver_to\n"
        "with deliver_to(sys.argv[1], Path(sys.argv[2]), environ={}): time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", code, address_of(broker), str(tmp_path / "s.db")]
    with subprocess.Popen(arguments) as process:
        wait_for(lambda: subscriber.status == ["online"])
        process.kill()
    wait_for(lambda: subscriber.status == ["online", "offline"])


def test_a_wrong_password_is_reported_but_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if (tool := shutil.which("mosquitto_passwd")) is None:
        pytest.skip("needs mosquitto_passwd to make a password file")
    caplog.set_level(logging.DEBUG)
    passwords = tmp_path / "passwords"
    subprocess.run([tool, "-c", "-b", str(passwords), "camera", "right"], check=True, capture_output=True)
    broker = Broker(tmp_path, options=f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    try:
        spool = tmp_path / "s.db"
        with deliver_to(address_of(broker, f"camera:{SECRET}@"), spool, environ={}, backoff=QUICK) as delivery:
            delivery.send({"i": 0})
            wait_for(lambda: delivery.state.last_error is not None)
            state = delivery.state
            assert state.last_error == "the broker refuses the connection: Not authorized"
            assert (state.connected_since, state.pending, state.failed) == (None, 1, 0)
        assert SECRET not in caplog.text + repr(state)
        assert "Not authorized" in caplog.text
        right = {"RETINA_EDGE_EVENTS_PASSWORD": "right"}
        with deliver_to(address_of(broker, "camera@"), spool, environ=right) as delivery:
            wait_for(lambda: delivery.state.delivered == 1)
    finally:
        broker.end()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl to make a certificate")
def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificate(tmp_path)
    broker = Broker(tmp_path, options=f"allow_anonymous true\ncertfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem")
    broker.start()
    try:
        address = Address.parse(f"mqtts://localhost:{broker.port}/cameras/gate", {})
        with pytest.raises(ReceiverUnreachable, match="its certificate is not trusted: self"):
            MqttTransport(address, client_id="me").connect()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        transport = MqttTransport(address, client_id="me")
        assert transport.connect()
        message = Message(1, "0" * 32, b'{"i":0}')
        assert list(transport.deliver([message])) == [message]
        transport.close()
        numeric = Address.parse(f"mqtts://127.0.0.1:{broker.port}/cameras/gate", {})
        with pytest.raises(ReceiverUnreachable, match="not trusted: IP address mismatch"):
            MqttTransport(numeric, client_id="me").connect()
    finally:
        broker.end()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to count descriptors")
def test_reconnecting_leaks_no_descriptors_and_no_threads(broker: Broker) -> None:
    transport = MqttTransport(Address.parse(address_of(broker), {}), client_id="me")
    other = MqttTransport(Address.parse(address_of(broker), {}), client_id="me")

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    counts = []
    for _ in range(25):
        for one, peer in ((transport, other), (other, transport)):
            wait_for(lambda one=one: connects(one))  # type: ignore[misc]
            # Both have the same client id, so the broker disconnects the peer. Wait for it: a client that does not know
            # of its lost connection would not connect again.
            if peer._client is not None:
                wait_for(lambda peer=peer: peer._lost is not None)  # type: ignore[misc]
        counts.append(count())
    assert counts[-1][0] <= counts[4][0] + MAX_CLOSING
    assert counts[-1][1] <= counts[4][1]
    transport.close()
    other.close()
    assert not [thread for thread in threading.enumerate() if "paho" in thread.name]
