"""What tests of events that leave the machine share."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path


def first_times(received: Sequence[int]) -> list[int]:
    """Each number where it came first."""
    return list(dict.fromkeys(received))


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
