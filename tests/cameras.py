"""Fake cameras on loopback: some send JPEG images over HTTP, others send noise or nothing.

with camera("http", partial(send_images, images=[jpeg])) as url:
    VideoSource(url)
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def camera(scheme: str, talk: Talk) -> Iterator[str]:
    """Run a server that talks to each client until either side hangs up or the block ends, and yield its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def converse(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            talk(connection)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connections.append(connection)
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/x"
    finally:
        for closing in (listening, *connections):
            with contextlib.suppress(OSError):  # the client may have disconnected
                closing.shutdown(socket.SHUT_RDWR)
            closing.close()
        thread.join()


def say_nothing(connection: socket.socket) -> None:
    """Act as a camera that hangs: read everything and send nothing."""
    while connection.recv(4096):
        pass


def send_noise(connection: socket.socket) -> None:
    """Send random bytes without end."""
    noise = np.random.default_rng(0).bytes(1 << 14)
    while True:
        connection.sendall(noise)
        time.sleep(0.01)


def send_images(connection: socket.socket, images: Iterable[bytes]) -> None:
    """Send JPEG images as motion JPEG over HTTP, 25 per second."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
    for image in images:
        head = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(image)
        connection.sendall(head + image + b"\r\n")
        time.sleep(0.04)
