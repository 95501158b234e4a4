"""What carries messages off the machine: the interface, its errors, and the address that chooses one.

Nothing here or in its subclasses puts a credential into a name, an error or the log: names are built from the parts of
an address that are not secret.
"""

from __future__ import annotations

import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from engines.errors import RetinaEdgeError
from retina_edge.delivery.spool_file import Message
from retina_edge.sources.video import redact

SCHEMES = ("mqtt", "mqtts", "http", "https")
# The password of a user whom the address names without one: it does not show in the list of processes.
PASSWORD_VARIABLE = "RETINA_EDGE_EVENTS_PASSWORD"


class AddressError(RetinaEdgeError, ValueError):
    """An address for events cannot be used."""


class DeliveryError(RetinaEdgeError):
    """A message could not be delivered."""


class Unreachable(DeliveryError):
    """Trying again can mend it: no connection, no answer in time, a server in trouble, access that is refused.

    Args:
        message: what happened, without credentials.
        retry_after: seconds that the receiver asks to wait; None where it does not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(DeliveryError):
    """The receiver will not have this message, however often it comes."""


class Transport(ABC):
    """Delivers messages in order, from one thread; only ``abort`` comes from another.

    Attributes:
        name: the address without credentials, for people.
        batch: how many messages it may be given at once.
    """

    name: str
    batch = 1

    @abstractmethod
    def connect(self) -> bool:
        """Makes sure of the connection; false where there is none between messages, so that nothing is known.

        Raises:
            Unreachable: there is none to be had.
        """

    @abstractmethod
    def deliver(self, messages: Sequence[Message]) -> Iterator[Message]:
        """Sends messages, and gives each as soon as the receiver has confirmed it, in order.

        Raises:
            Unreachable: the first that was not given, and those after it, have to be sent again.
            Refused: the first that was not given is refused for good.
        """

    @abstractmethod
    def close(self) -> None:
        """Says goodbye within a second or two, where there is a connection. Raises nothing."""

    @abstractmethod
    def abort(self) -> None:
        """Makes ``connect`` or ``deliver``, running in another thread, fail soon."""


@dataclass(frozen=True)
class Address:
    """An address taken apart.

    Attributes:
        scheme: one of ``SCHEMES``.
        host: name or number, without brackets.
        port: None for the scheme's own.
        user, password: None where there are none.
        path: with its leading slash; percent signs as given.
        query: as given.
    """

    scheme: str
    host: str
    port: int | None
    user: str | None
    password: str | None
    path: str
    query: str

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str] = os.environ) -> Address:
        """Takes an address apart; a user's missing password comes from the environment.

        Raises:
            AddressError: it is no address of events.
        """
        try:
            parts = urlsplit(text)
            port, host = parts.port, parts.hostname
        except ValueError as error:  # its text may quote the password
            raise AddressError(f"{redact(text)}: the host or the port of this address cannot be read") from error
        if parts.scheme not in SCHEMES:
            raise AddressError(
                f"{redact(text)}: expected events to go to mqtt://HOST/TOPIC, mqtts://HOST/TOPIC, http:// or https://"
            )
        if not host or "#" in text or any(ord(char) <= 32 or ord(char) == 127 for char in text):
            raise AddressError(
                f"{redact(text)}: expected {parts.scheme}://[USER:PASSWORD@]HOST[:PORT]/..., without spaces or #; "
                "write special characters of a password as %40 for @, %23 for #, %2F for /"
            )
        return cls(parts.scheme, host, port, *_credentials(parts, environ), parts.path, parts.query)

    @property
    def place(self) -> str:
        """``host`` or ``host:port``, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def open_transport(address: str, *, client_id: str, environ: Mapping[str, str] = os.environ) -> Transport:
    """The transport that an address asks for; nothing is connected yet.

    Args:
        address: ``mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC``, ``mqtts://`` for TLS, or ``http(s)://`` for a webhook.
        client_id: what this machine is called at an MQTT broker, at most 23 letters, digits and dashes.
        environ: where secrets are looked up.

    Raises:
        AddressError: the address cannot be used.
        MissingDependencyError: MQTT without paho-mqtt.
    """
    parsed = Address.parse(address, environ)
    if parsed.scheme.startswith("mqtt"):
        from retina_edge.delivery.mqtt import MqttTransport

        return MqttTransport(parsed, client_id=client_id)
    from retina_edge.delivery.webhook import SECRET_VARIABLE, WebhookTransport

    return WebhookTransport(parsed, secret=environ.get(SECRET_VARIABLE))


def reason_of(error: Exception) -> str:
    """What a network error says to people; never a part of an address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; give your own authority by SSL_CERT_FILE"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'unknown'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the name of the host is unknown"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__


def _credentials(parts: SplitResult, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return user, environ.get(PASSWORD_VARIABLE) if user and password is None else password
