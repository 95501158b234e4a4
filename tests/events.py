"""What tests of events that leave the machine share."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from retina_edge.tracking.events import Event


def first_times(received: Sequence[int]) -> list[int]:
    """Each number where it came first."""
    return list(dict.fromkeys(received))


def entered(track: int) -> Event:
    """An object of this id that came into a zone."""
    captured = datetime(2026, 1, 2, tzinfo=timezone.utc)
    return Event("entered", "gate", "yard", None, track, "car", 0.5, (0, 0, 9, 9), (48, 64), captured, {"inside": 1})


def make_certificate(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate for localhost in cert.pem, signed by itself."""
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
