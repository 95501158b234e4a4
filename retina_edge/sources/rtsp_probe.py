"""Whether an RTSP server is there: asked before OpenCV is, which opens one stream or file of a process at a time."""

from __future__ import annotations

import socket
import threading
import time
from urllib.parse import urlsplit

PORT = 554
# So often it is looked whether the wait has been given up.
_PIECE_SECONDS, _CONNECT_SECONDS = 0.2, 2.0


def wait_for_answer(address: str, *, seconds: float, given_up: threading.Event) -> None:
    """Asks a server for its options, as FFmpeg does first, and returns when it says anything at all.

    Args:
        address: ``rtsp://...``; user and password are not sent.
        seconds: to reach it, and to hear from it.
        given_up: ends the wait for an answer, without an error.

    Raises:
        OSError: it cannot be reached, or says nothing.
        ValueError: an address that cannot be one.
    """
    url = urlsplit(address)
    host, port = url.hostname or "", url.port or PORT
    shown = f"[{host}]" if ":" in host else host
    request = f"OPTIONS rtsp://{shown}:{port}{url.path} RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    end = time.monotonic() + seconds
    with _connect(host, port, end, given_up) as connection:
        connection.sendall(request.encode())
        connection.settimeout(_PIECE_SECONDS)
        while not given_up.is_set():
            try:
                connection.recv(1)
            except TimeoutError:
                if time.monotonic() >= end:
                    raise TimeoutError(f"it says nothing for {seconds:g} s") from None
            else:
                return


def _connect(host: str, port: int, end: float, given_up: threading.Event) -> socket.socket:
    while True:
        try:
            return socket.create_connection((host, port), _CONNECT_SECONDS)
        except TimeoutError:
            if given_up.is_set() or time.monotonic() >= end:
                raise
