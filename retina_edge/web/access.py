"""Who may see it: everybody on this machine, and elsewhere those who have the token. And how much they may ask for."""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "retina_edge_token"
LOGIN = "/login"
# The page itself has to load before it can ask for the token; nothing in these is secret. Health is for supervisors.
OPEN_PATHS = frozenset({LOGIN, "/healthz", "/page.css", "/login.js", "/icon.svg"})
# Of a request, bytes. The longest of ours sets a score.
MAX_BODY_BYTES = 4096
# Wrong tokens, and changes, of all clients together: so many at once, and so many a second from then on.
LOGIN_RATE, CHANGE_RATE = (20, 0.5), (20, 20.0)
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RateLimit:
    """So many at once, and a steady rate from then on."""

    def __init__(self, size: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._rate, self._clock = size, rate, clock
        self._left, self._at = size, clock()

    def take(self) -> bool:
        """Whether there is one left."""
        now = self._clock()
        self._left = min(self._size, self._left + self._rate * (now - self._at))
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class AccessControl:
    """ASGI middleware in front of everything.

    Without a token only names of this machine are answered to, so that no page of elsewhere reaches it through a name
    that points here; requests of browsers must come from our own page.

    Args:
        app: what is behind it.
        token: asked for on every request; None on loopback.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token
        self._guesses, self._changes = RateLimit(*LOGIN_RATE), RateLimit(*CHANGE_RATE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["type"] == "http" and scope["path"] == LOGIN and scope["method"] == "POST":
            refusal = await self._log_in(receive)
        if refusal is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(scope, receive, _with_headers(send))
            return
        await self._app(scope, _bounded(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """What to answer instead; None where the request may pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, page = urlsplit(f"//{host}").hostname, urlsplit(origin or "").netloc
        except ValueError:
            return _problem(400, "host or origin: expected one, got something else")
        if self._token is None and not is_loopback(name or ""):
            return _problem(400, f"host: expected a name of this machine, got {host[:100]!r}")
        if origin is not None and page != host:
            return _problem(403, "origin: expected a request of this page itself")
        # A browser says where a request comes from; pictures that another page shows have no Origin.
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] not in ("/", LOGIN):
            return _problem(403, "expected a request of this page itself")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return _problem(413, f"body: expected at most {MAX_BODY_BYTES} bytes")
        method = scope.get("method", "GET")
        if scope["path"] not in OPEN_PATHS and not self._known(headers):
            if ("authorization" in headers or COOKIE in headers.get("cookie", "")) and not self._guesses.take():
                return _problem(429, "too many attempts; wait some seconds")
            if scope["path"] == "/" and method == "GET":
                return RedirectResponse(LOGIN, 303)
            return _problem(401, "expected the token, as cookie or as Authorization: Bearer TOKEN")
        if method not in ("GET", "HEAD") and scope["path"] not in OPEN_PATHS and not self._changes.take():
            return _problem(429, "too many changes; wait a moment")
        return None

    def _known(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer if kind.lower() == "bearer" else cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return self._right(given)

    def _right(self, given: str) -> bool:
        """In constant time; as bytes, because of text it takes ASCII alone."""
        return secrets.compare_digest(given.encode(errors="replace"), (self._token or "").encode())

    async def _log_in(self, receive: Receive) -> Response:
        body, more = b"", True
        while more and len(body) <= MAX_BODY_BYTES:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        given = parse_qs(body.decode(errors="replace")).get("token", [""])[0].strip()
        if self._token is None or not self._right(given):
            # Who has the token is never kept waiting by those who guess.
            if not self._guesses.take():
                return _problem(429, "too many attempts; wait some seconds")
            return RedirectResponse(f"{LOGIN}?wrong", 303)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, given, max_age=30 * 24 * 3600, httponly=True, samesite="strict")
        return response


def _problem(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)


def _bounded(receive: Receive) -> Receive:
    """Ends a body that grows beyond what its header said, or said nothing of."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        if seen > MAX_BODY_BYTES:
            return {"type": "http.disconnect"}
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            raw = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *raw]}
        await send(message)

    return with_headers
