"""Webhooks: messages to a real web server in a thread, with many kinds of answers."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from retina_edge.delivery.address import Address
from retina_edge.delivery.delivery_worker import Backoff
from retina_edge.delivery.receivers import deliver_to
from retina_edge.delivery.spool import Spool
from retina_edge.delivery.spool_file import Message
from retina_edge.delivery.transport import MessageRefused, ReceiverUnreachable
from retina_edge.delivery.webhook import WebhookTransport, _retry_after
from tests.events import first_times, make_certificate
from tests.waiting import wait_for
from tests.webhook_server import Answer, Handler, Server, hang, serving, status

SECRET = "hunter2"
FAST = Backoff(0.001, 0.004)


def drip(handler: Handler) -> None:
    """Send an endless answer, one byte every 50 ms, so that no single read takes long."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(200):
            handler.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


def endless_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    try:
        for _ in range(10_000):
            handler.wfile.write(b"x" * 65536)
    except OSError:
        handler.close_connection = True
    else:
        raise AssertionError("all of 600 MB was read")


def dripping_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b"x")
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


def close_without_answer(handler: Handler) -> None:
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


def message(i: int = 0) -> Message:
    return Message(i + 1, f"{i:032x}", json.dumps({"i": i}).encode())


def deliver(transport: WebhookTransport, number: int = 0) -> None:
    assert list(transport.deliver([message(number)])) == [message(number)]


def transport_to(server: Server, *, timeout: float = 5.0, secret: str | None = None) -> WebhookTransport:
    address = Address.parse(f"http://127.0.0.1:{server.port}/hook", {})
    return WebhookTransport(address, secret=secret, timeout=timeout)


def test_a_server_gets_address_headers_signature_and_body(server: Server, tmp_path: Path) -> None:
    environ = {"RETINA_EDGE_WEBHOOK_SECRET": SECRET}
    address = f"http://us%3Aer:pä@127.0.0.1:{server.port}/ho%20ok/ü?a=1"
    with deliver_to(address, tmp_path / "s.db", environ=environ) as delivery:
        for i in range(5):
            delivery.send({"i": i, "name": "naïve"})
        wait_for(lambda: delivery.state.delivered == 5)
        assert delivery.state.connected_since is not None
    assert server.numbers == list(range(5))
    assert server.connections == 1
    path, headers, body = server.requests[0]
    assert path == "/ho%20ok/%C3%BC?a=1"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic dXM6ZXI6cMOk"  # us:er:pä
    expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Retina-Edge-Signature-256"] == f"sha256={expected}"
    assert json.loads(body) == {"i": 0, "name": "naïve"}
    assert len({request[1]["Idempotency-Key"] for request in server.requests}) == 5


def test_without_secrets_their_headers_are_absent(server: Server) -> None:
    transport = transport_to(server)
    deliver(transport)
    transport.close()
    assert not {"Authorization", "X-Retina-Edge-Signature-256"} & set(server.requests[0][1])


@pytest.mark.parametrize(
    "answers",
    [
        [status(500), status(503), status(200)],
        [status(408), status(425), status(204)],
        [status(401), status(403), status(407), status(201)],
        [close_without_answer, close_without_answer, close_without_answer],
        [status(301, Location="/hook"), status(307, Location="/hook")],
    ],
    ids=["500", "408", "401", "closed", "redirect"],
)
def test_a_retry_succeeds_after_temporary_failures(server: Server, tmp_path: Path, answers: list[Answer]) -> None:
    server.answers += answers
    address = f"http://127.0.0.1:{server.port}/{SECRET}"
    with deliver_to(address, tmp_path / "s.db", environ={}, backoff=FAST) as delivery:
        for i in range(3):
            delivery.send({"i": i})
        wait_for(lambda: delivery.state.delivered == 3)
    assert first_times(server.numbers) == [0, 1, 2]
    assert {path for path, _, _ in server.requests} == {f"/{SECRET}"}
    assert len({headers["Idempotency-Key"] for _, headers, _ in server.requests}) == 3
    assert (delivery.state.failed, delivery.state.dropped) == (0, 0)
    assert delivery.state.last_error is not None


def test_429_waits_for_the_seconds_of_retry_after(server: Server, tmp_path: Path) -> None:
    server.answers.append(status(429, Retry_After="1"))
    with deliver_to(f"http://127.0.0.1:{server.port}", tmp_path / "s.db", environ={}, backoff=FAST) as delivery:
        start = time.monotonic()
        delivery.send({"i": 0})
        wait_for(lambda: delivery.state.delivered == 1)
        assert 1 <= time.monotonic() - start < 10


def test_retry_after_in_all_its_forms() -> None:
    for value, seconds in {"120": 120.0, " 0 ": 0.0, "soon": None, "-1": None, "": None}.items():
        assert _retry_after(value) == seconds
    assert _retry_after(None) is None
    assert _retry_after(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=3)
    assert _retry_after(formatdate(time.time() - 100, usegmt=True)) == 0


def test_a_message_refused_by_400_is_set_aside_and_the_others_are_delivered(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers += [status(400), status(200), status(400), status(413), status(404)]
    with deliver_to(f"http://127.0.0.1:{server.port}", tmp_path / "s.db", environ={}, backoff=FAST) as delivery:
        for i in range(7):
            delivery.send({"i": i})
        wait_for(lambda: delivery.state.delivered == 3)
    assert server.numbers == list(range(7))
    assert (delivery.state.failed, delivery.state.pending) == (4, 0)
    assert [caplog.text.count(f"({code})") for code in (400, 413, 404)] == [1, 1, 1]


@pytest.mark.parametrize("answer", [hang, drip], ids=["hang", "drip"])
def test_a_server_that_takes_too_long_is_unreachable(server: Server, answer: Answer) -> None:
    server.answers.append(answer)
    transport = transport_to(server, timeout=0.3)
    start = time.monotonic()
    with pytest.raises(ReceiverUnreachable, match=r"does not answer within 0\.3 s"):
        deliver(transport)
    assert time.monotonic() - start < 5  # the server takes 10 s
    deliver(transport)
    transport.close()


def test_a_slow_answer_within_the_timeout_is_accepted(server: Server) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        status(200)(handler)

    server.answers.append(slow)
    transport = transport_to(server, timeout=5)
    deliver(transport)
    transport.close()
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [endless_body, dripping_body], ids=["endless", "dripping"])
def test_the_body_of_an_answer_is_bounded(server: Server, answer: Answer) -> None:
    server.answers.append(answer)
    transport = transport_to(server, timeout=0.5)
    start = time.monotonic()
    deliver(transport)  # delivered, because only the status matters
    assert time.monotonic() - start < 5  # the server takes 10 s
    deliver(transport, 1)
    transport.close()
    assert server.numbers == [0, 1]


def test_an_idle_connection_closed_by_the_server_is_opened_again(server: Server) -> None:
    transport = transport_to(server)
    deliver(transport)
    server.answers.append(close_without_answer)
    deliver(transport, 1)
    transport.close()
    assert server.numbers == [0, 1, 1]


def test_a_refused_connection_and_an_unknown_host_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ReceiverUnreachable, match="cannot be reached: Connection refused"):
        deliver(WebhookTransport(Address.parse(f"http://127.0.0.1:{port}/", {})))
    with pytest.raises(ReceiverUnreachable, match="the host name is unknown"):
        deliver(WebhookTransport(Address.parse("http://no-such-host.invalid/", {})))


def test_stopping_ends_a_request_that_hangs(server: Server, tmp_path: Path) -> None:
    server.answers.append(hang)
    with deliver_to(f"http://127.0.0.1:{server.port}", tmp_path / "s.db", environ={}, backoff=FAST) as delivery:
        delivery.send({"i": 0})
        wait_for(lambda: len(server.requests) == 1)
        start = time.monotonic()
        delivery.stop(timeout=0.2)
        assert time.monotonic() - start < 5  # the server hangs for 10 s
    assert not [thread for thread in threading.enumerate() if thread.name == "delivery"]
    with Spool(tmp_path / "s.db") as spool:
        assert len(spool) == 1


def test_errors_and_logs_contain_no_secret(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers += [status(401), status(400), status(302, Location=f"/{SECRET}"), status(500), status(200)]
    environ = {"RETINA_EDGE_WEBHOOK_SECRET": SECRET}
    address = f"http://user:{SECRET}@127.0.0.1:{server.port}/{SECRET}?token={SECRET}"
    with deliver_to(address, tmp_path / "s.db", environ=environ, backoff=Backoff(0.01, 0.02)) as delivery:
        for i in range(2):
            delivery.send({"i": i})
        wait_for(lambda: delivery.state.delivered == 1)
        assert SECRET not in repr(delivery.state)
    assert "(401)" in caplog.text
    assert SECRET not in caplog.text
    server.answers.append(status(400))
    transport = transport_to(server, secret=SECRET)
    with pytest.raises(MessageRefused) as caught:
        deliver(transport)
    transport.close()
    assert SECRET not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl to make a certificate")
def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_certificate(tmp_path)
    with serving(context) as server:
        address = Address.parse(f"https://localhost:{server.port}/", {})
        with pytest.raises(ReceiverUnreachable, match="its certificate is not trusted: self"):
            deliver(WebhookTransport(address))
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        transport = WebhookTransport(address)
        deliver(transport)
        deliver(transport, 1)
        transport.close()
        assert server.numbers == [0, 1]
        with pytest.raises(ReceiverUnreachable, match="not trusted: IP address mismatch"):
            deliver(WebhookTransport(Address.parse(f"https://127.0.0.1:{server.port}/", {})))
