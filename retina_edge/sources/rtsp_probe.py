"""A check that an RTSP server answers, before OpenCV opens it: OpenCV opens only one address or file at once."""

from __future__ import annotations

import socket
import threading
import time
from urllib.parse import urlsplit

PORT = 554
# Timeouts of one receive and of one connection attempt. The wait can only be interrupted between them.
_RECEIVE_SECONDS, _CONNECT_SECONDS = 0.2, 2.0


def wait_for_answer(address: str, *, seconds: float, interrupted: threading.Event) -> None:
    """Send an OPTIONS request, as FFmpeg does first, and return as soon as the server sends anything.

    Args:
        address: ``rtsp://...``; user and password are not sent.
        seconds: timeout for the connection and the answer together.
        interrupted: event that ends the wait for an answer without an error.

    Raises:
        OSError: if the server cannot be reached, or does not answer in time.
        ValueError: if the address is invalid.
    """
    url = urlsplit(address)
    host, port = url.hostname or "", url.port or PORT
    host_text = f"[{host}]" if ":" in host else host
    request = f"OPTIONS rtsp://{host_text}:{port}{url.path} RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    end = time.monotonic() + seconds
    with _connect(host, port, end, interrupted) as connection:
        connection.sendall(request.encode())
        connection.settimeout(_RECEIVE_SECONDS)
        while not interrupted.is_set():
            try:
                connection.recv(1)
            except TimeoutError:
                if time.monotonic() >= end:
                    raise TimeoutError(f"it sent nothing for {seconds:g} s") from None
            else:
                return


def _connect(host: str, port: int, end: float, interrupted: threading.Event) -> socket.socket:
    while True:
        try:
            return socket.create_connection((host, port), _CONNECT_SECONDS)
        except TimeoutError:
            if interrupted.is_set() or time.monotonic() >= end:
                raise
