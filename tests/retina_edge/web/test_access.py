"""Access control: the token, the Host header, requests from other pages, and rate limits."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from retina_edge.web.access import COOKIE, LOGIN_RATE, MAX_BODY_BYTES, RateLimit, is_loopback
from tests.retina_edge.web.serving import TOKEN, Served, serving

SECRET_PATHS = ("/api/streams", "/api/streams/north/frame.jpg", "/metrics", "/api/score", "/openapi.json", "/api")


def test_only_the_login_and_the_health_are_open_without_the_token(anonymous: httpx.Client, guarded: Served) -> None:
    for path in SECRET_PATHS:
        assert anonymous.get(path).status_code == 401, path
    assert anonymous.put("/api/score", json={"score": 0.9}).status_code == 401
    assert anonymous.get("/").headers["location"] == "login"
    assert anonymous.get("/healthz").status_code == 200
    with pytest.raises(InvalidStatus):
        connect(guarded.url.replace("http", "ws") + "/api/watch")
    assert guarded.pipeline.score == 0.4


@pytest.mark.parametrize("wrong", ["correct", TOKEN + "x", "ж", "Basic abc"])
def test_wrong_tokens_are_refused(anonymous: httpx.Client, wrong: str) -> None:
    header = b"Bearer " + wrong.encode()
    assert anonymous.get("/api/streams", headers=[(b"authorization", header)]).status_code == 401
    assert anonymous.get("/api/streams", headers=[(b"cookie", f"{COOKIE}={wrong}".encode())]).status_code == 401


def test_the_token_works_as_a_header(anonymous: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    for path in SECRET_PATHS:
        assert anonymous.get(path, headers=headers).status_code == 200, path


def test_of_two_cookies_the_one_with_the_longer_path_counts(anonymous: httpx.Client) -> None:
    """Browsers send it first (RFC 6265). The other one may be of another server of the same host."""
    for first, second, status in ((TOKEN, "stale", 200), ("stale", TOKEN, 401)):
        cookies = f'other=1; {COOKIE}="{first}"; {COOKIE}="{second}"'
        assert anonymous.get("/api/streams", headers={"cookie": cookies}).status_code == status


def test_the_login_form_sets_a_cookie_and_limits_guesses() -> None:
    with serving(TOKEN) as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/login", data={"token": "guess"}).headers["location"] == "login?wrong"
        assert client.get("/api/streams").status_code == 401
        answer = client.post("/login", data={"token": TOKEN})
        assert answer.headers["location"] == "./"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "path" not in cookie  # so that it belongs to the path under which a proxy serves the page
        assert "samesite=strict" in cookie
        # Guesses are limited, in the form and in the header, but the right token always works.
        for _ in range(LOGIN_RATE[0]):
            refused = client.post("/login", data={"token": "guess"})
        assert refused.status_code == 429
        assert client.get("/api/streams", headers={"authorization": "Bearer guess"}).status_code == 429
        assert client.post("/login", data={"token": TOKEN}).headers["location"] == "./"
        assert client.get("/api/streams", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_on_loopback_only_host_names_of_this_machine_are_accepted(client: httpx.Client) -> None:
    for host, status in (
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("evil.example", 400),
        ("", 400),
    ):
        assert client.get("/api/streams", headers={"host": host}).status_code == status, host


def test_requests_from_other_pages_are_refused(client: httpx.Client, served: Served) -> None:
    answer = client.put("/api/score", json={"score": 0.9}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert served.pipeline.score == 0.4
    with pytest.raises(InvalidStatus):
        connect(served.url.replace("http", "ws") + "/api/watch", origin=Origin("http://evil.example"))
    assert client.get("/api/score", headers={"origin": served.url}).status_code == 200
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        answer = client.get("/api/streams/north/frame.jpg", headers={"sec-fetch-site": site})
        assert answer.status_code == status, site
    for name in ("host", "origin"):
        assert client.get("/api/score", headers={name: "http://["}).status_code == 400


def test_large_bodies_are_refused(client: httpx.Client) -> None:
    assert client.put("/api/score", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1000

    try:
        status = client.put("/api/score", content=endless()).status_code
    except httpx.HTTPError:
        return  # the connection was cut
    assert status >= 400


def test_the_rate_of_changes_is_limited() -> None:
    with serving() as server, httpx.Client(base_url=server.url) as client:
        statuses = [client.put("/api/score", json={"score": 0.5}).status_code for _ in range(60)]
    assert statuses[0] == 200
    assert 429 in statuses


def test_the_server_survives_malformed_requests(client: httpx.Client, served: Served) -> None:
    address = urlsplit(served.url)
    length = b"GET /api/streams HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n"
    for garbage in (
        length,
        b"\x00" * 100,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000,
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection((address.hostname or "", address.port or 0), 5) as raw:
            try:
                raw.sendall(garbage)
                raw.recv(1000)
            except OSError:
                pass
    assert client.get("/healthz").status_code == 200


def test_a_rate_limit_runs_out_and_fills_up_again() -> None:
    now = [0.0]
    limit = RateLimit(2, 0.5, lambda: now[0])
    assert [limit.take() for _ in range(3)] == [True, True, False]
    now[0] = 1.9
    assert not limit.take()
    now[0] = 2.1
    assert [limit.take(), limit.take()] == [True, False]
    now[0] = 1000
    assert [limit.take() for _ in range(3)] == [True, True, False]


def test_loopback_addresses_are_recognized() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))
