"""Access control of the web server: only requests from this machine or with the token pass, within limits."""

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

from retina_edge.web.connections import client_wait

COOKIE = "retina_edge_token"
LOGIN = "/login"
# Served without the token: the login page has to load before it can ask for the token, and supervisors check the
# health. Nothing in these responses is secret.
OPEN_PATHS = frozenset({LOGIN, "/healthz", "/page.css", "/login.js", "/words.js", "/icon.svg"})
# Largest body of a request, bytes. The longest legitimate body is a region with all its points and classes.
MAX_BODY_BYTES = 16384
# Limits on wrong tokens and on changes, for all clients together: (burst size, rate per second after the burst).
LOGIN_RATE, CHANGE_RATE = (20, 0.5), (20, 20.0)
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """True if an address that a server binds to can only be reached from this machine.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
        (True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RateLimit:
    """A token bucket: a burst, and a steady rate after the burst.

    Args:
        size: largest number of permits at once.
        rate: permits that become available per second.
        clock: function that returns the current time in seconds.

    Examples:
        >>> limit = RateLimit(size=2, rate=0)
        >>> [limit.take() for _ in range(3)]
        [True, True, False]
    """

    def __init__(self, size: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._rate, self._clock = size, rate, clock
        self._available, self._updated = size, clock()

    def take(self) -> bool:
        """Take one permit. Return False if none is available."""
        now = self._clock()
        self._available = min(self._size, self._available + self._rate * (now - self._updated))
        self._updated = now
        if self._available < 1:
            return False
        self._available -= 1
        return True


class AccessControl:
    """ASGI middleware that checks every request before the application sees it.

    Without a token, the Host header must name this machine. This prevents DNS rebinding, in which a foreign page
    reaches the server through a host name that resolves to this machine. Requests from browsers must come from the
    server's own page.

    Args:
        app: the application to protect.
        token: access token, required on every request; None on loopback.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token
        self._guesses, self._changes = RateLimit(*LOGIN_RATE), RateLimit(*CHANGE_RATE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if scope["type"] == "websocket":
            with client_wait(scope).answering():
                if refusal is None:
                    await self._app(scope, receive, send)
                else:
                    await send({"type": "websocket.close", "code": 1008})
            return
        body = b""
        if refusal is None:
            # Read the body before the application does: until the request is complete, its time is limited.
            received = await _body(receive)
            if received is None:
                return
            body = received
            if len(body) > MAX_BODY_BYTES:
                refusal = _too_large()
            elif scope["path"] == LOGIN and scope["method"] == "POST":
                refusal = self._log_in(body)
        with client_wait(scope).answering():
            await (refusal or self._app)(scope, _replayed(body, receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response that refuses a request, or None if the request may pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, page = urlsplit(f"//{host}").hostname, urlsplit(origin or "").netloc
        except ValueError:
            return _problem(400, "host or origin: expected a valid address, got something else")
        if self._token is None and not is_loopback(name or ""):
            return _problem(400, f"host: expected a name of this machine, got {host[:100]!r}")
        if origin is not None and page != host:
            return _problem(
                403,
                f"origin: expected a request from the page of {host[:100]!r}, the Host header, got {origin[:100]!r}; a "
                "proxy must pass the Host header on (nginx: proxy_set_header Host $http_host)",
            )
        # Images that another page embeds are requested without an Origin, but browsers send Sec-Fetch-Site with them.
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] not in ("/", LOGIN):
            return _problem(403, "expected a request from this server's own page")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return _too_large()
        method = scope.get("method", "GET")
        if scope["path"] not in OPEN_PATHS and not self._authorized(headers):
            if ("authorization" in headers or COOKIE in headers.get("cookie", "")) and not self._guesses.take():
                return _problem(429, "too many attempts; wait a few seconds")
            if scope["path"] == "/" and method == "GET":
                return RedirectResponse("login", 303)
            return _problem(401, "expected the token, as a cookie or in the header Authorization: Bearer TOKEN")
        if method not in ("GET", "HEAD") and scope["path"] not in OPEN_PATHS and not self._changes.take():
            return _problem(429, "too many changes; wait a moment")
        return None

    def _authorized(self, headers: Headers) -> bool:
        """True if no token is required, or if the headers contain it."""
        if self._token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        return self._is_token(bearer if kind.lower() == "bearer" else _cookie(headers.get("cookie", "")))

    def _is_token(self, given: str) -> bool:
        """True if a text is the token. The comparison takes constant time."""
        # Compare bytes, because compare_digest accepts only ASCII in a str.
        return secrets.compare_digest(given.encode(errors="replace"), (self._token or "").encode())

    def _log_in(self, body: bytes) -> Response:
        """Answer the login form: set the cookie if the given token is right, else show the form again.

        The addresses are relative to the form, because a proxy may serve the page under a path. For the same reason the
        cookie has no path: browsers send it to the folder of the form, and not to other servers behind the proxy.
        """
        given = parse_qs(body.decode(errors="replace")).get("token", [""])[0].strip()
        if self._token is None or not self._is_token(given):
            # Only wrong tokens are limited, so that guessing cannot lock out a user who has the right one.
            if not self._guesses.take():
                return _problem(429, "too many attempts; wait a few seconds")
            return RedirectResponse("login?wrong", 303)
        response = RedirectResponse("./", 303)
        response.set_cookie(COOKIE, given, max_age=30 * 24 * 3600, path=None, httponly=True, samesite="strict")
        return response


def _problem(status: int, detail: str) -> Response:
    """Return an error response in the form that FastAPI gives its own errors."""
    return JSONResponse({"detail": detail}, status)


def _too_large() -> Response:
    """Return the response to a request with too large a body."""
    return _problem(413, f"body: expected at most {MAX_BODY_BYTES} bytes")


def _cookie(header: str) -> str:
    """Return the token in a Cookie header; empty if there is none.

    If several servers of one host have set the cookie, the first one has the longest path, so it is the one of this
    server.
    """
    tokens = (cookie_parser(part).get(COOKIE) for part in header.split(";"))
    return next((token for token in tokens if token is not None), "")


async def _body(receive: Receive) -> bytes | None:
    """Return the body of a request, up to the message that exceeds the limit; None if the client disconnects."""
    body, more = b"", True
    while more and len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Receive a body that has been read already, and then what follows."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        message = next(messages, None)
        return await receive() if message is None else message

    return replayed


def _with_headers(send: Send) -> Send:
    """Add the security headers to every response."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            raw = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *raw]}
        await send(message)

    return with_headers
