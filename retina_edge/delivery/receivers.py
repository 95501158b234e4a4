"""Event receivers: the transport for an address, and a running delivery to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from retina_edge.delivery.address import Address
from retina_edge.delivery.delivery_worker import Backoff, DeliveryWorker
from retina_edge.delivery.spool import Spool
from retina_edge.delivery.transport import Transport
from retina_edge.delivery.webhook import SECRET_VARIABLE, WebhookTransport

# Digits of the spool's name in a client id. Together with "retina-edge-", they make the 23 characters that every MQTT
# 3.1.1 broker accepts.
CLIENT_ID_DIGITS = 11


def open_transport(address: str, *, client_id: str, environ: Mapping[str, str] = os.environ) -> Transport:
    """Return the transport for an address; nothing is connected yet.

    Args:
        address: ``mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC``, ``mqtts://`` for TLS, or ``http(s)://`` for a webhook.
        client_id: name of this machine at an MQTT broker, at most 23 letters, digits and dashes.
        environ: environment that secrets are looked up in.

    Raises:
        AddressError: if the address cannot be used.
        MissingDependencyError: if the address needs paho-mqtt, and it is not installed.

    Examples:
        >>> open_transport("https://example.org/hooks/secret", client_id="retina-edge-1").name
        'https://example.org/***'
    """
    parsed = Address.parse(address, environ)
    if parsed.scheme.startswith("mqtt"):
        from retina_edge.delivery.mqtt import MqttTransport

        return MqttTransport(parsed, client_id=client_id)
    return WebhookTransport(parsed, secret=environ.get(SECRET_VARIABLE))


@contextmanager
def deliver_to(
    address: str, spool: Path, *, environ: Mapping[str, str] = os.environ, backoff: Backoff | None = None
) -> Iterator[DeliveryWorker]:
    """Deliver to an event receiver inside the block, through a spool on disk.

    Args:
        address: ``mqtt://``, ``mqtts://``, ``http://`` or ``https://``.
        spool: file of the spool; each address needs its own.
        environ: environment that secrets are looked up in.
        backoff: waits between attempts; None for the default waits.

    Raises:
        AddressError: if the address cannot be used.
        MissingDependencyError: if the address needs paho-mqtt, and it is not installed.
        SpoolError: if another process uses the spool, or the file is not a spool.
    """
    with Spool(spool) as opened:
        client_id = f"retina-edge-{opened.name[:CLIENT_ID_DIGITS]}"
        transport = open_transport(address, client_id=client_id, environ=environ)
        with DeliveryWorker(opened, transport, backoff=backoff) as worker:
            yield worker
