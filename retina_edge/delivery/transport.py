"""The interface of transports, which deliver messages to a receiver on another machine, and their errors.

No transport puts a credential into a name, an error or the log: names are built from the parts of an address that are
not secret.
"""

from __future__ import annotations

import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from engines.core.errors import RetinaEdgeError
from retina_edge.delivery.spool_file import Message


class DeliveryError(RetinaEdgeError):
    """A failure to deliver a message."""


class ReceiverUnreachable(DeliveryError):
    """A failure that a retry may fix: no connection, no answer in time, a server error, access denied.

    Args:
        message: description of the failure, without credentials.
        retry_after: seconds that the receiver asks to wait; None if it does not ask.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MessageRefused(DeliveryError):
    """A final refusal of a message by its receiver, so that a retry is useless."""


class Transport(ABC):
    """The base class of transports. One thread calls all methods; only ``abort`` is called from another thread.

    Attributes:
        name: address of the receiver without credentials, for display.
        batch: largest number of messages that ``deliver`` takes at once.
    """

    name: str
    batch = 1

    @abstractmethod
    def connect(self) -> bool:
        """Make sure that the receiver is connected.

        Returns:
            True if connected; False if the protocol keeps no connection between messages, so that this is unknown.

        Raises:
            ReceiverUnreachable: if there is no connection.
        """

    @abstractmethod
    def deliver(self, messages: Sequence[Message]) -> Iterator[Message]:
        """Send messages, and yield each one as soon as the receiver has confirmed it, in order.

        Raises:
            ReceiverUnreachable: the first message that was not yielded, and all after it, must be sent again.
            MessageRefused: the first message that was not yielded is refused for good.
        """

    @abstractmethod
    def close(self) -> None:
        """Disconnect cleanly, within two seconds and without raising an error."""

    @abstractmethod
    def abort(self) -> None:
        """Make a ``connect`` or ``deliver`` that runs in another thread fail soon."""


def network_reason(error: Exception) -> str:
    """Describe a network error for users, without any part of an address.

    Examples:
        >>> network_reason(TimeoutError())
        'no answer in time'
        >>> network_reason(ConnectionRefusedError(111, "Connection refused"))
        'Connection refused'
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; for your own authority, set SSL_CERT_FILE"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'unknown'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the host name is unknown"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return type(error).__name__
