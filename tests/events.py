"""Helpers for tests of events that are delivered to another machine."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from retina_edge.tracking.events import Event


def first_times(received: Sequence[int]) -> list[int]:
    """Return the numbers without repetitions, in the order in which they first came."""
    return list(dict.fromkeys(received))


def entered(track: int) -> Event:
    """Return the event that an object with this track id entered a zone."""
    captured = datetime(2026, 1, 2, tzinfo=timezone.utc)
    return Event("entered", "gate", "yard", None, track, "car", 0.5, (0, 0, 9, 9), (48, 64), captured, {"inside": 1})


def make_certificate(folder: Path) -> ssl.SSLContext:
    """Write a self-signed certificate for localhost to cert.pem, and return a server's TLS context with it."""
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost".split(),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
