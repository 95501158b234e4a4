"""Addresses of event receivers, parsed and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from engines.core.errors import RetinaEdgeError
from retina_edge.system.redaction import redact

SCHEMES = ("mqtt", "mqtts", "http", "https")
# Environment variable with the password, for an address that has a user but no password. Unlike an argument, a variable
# is not visible in the list of processes.
PASSWORD_VARIABLE = "RETINA_EDGE_EVENTS_PASSWORD"


class AddressError(RetinaEdgeError, ValueError):
    """An address that cannot be used for an event receiver."""


@dataclass(frozen=True)
class Address:
    """The parts of an address.

    Attributes:
        scheme: one of ``SCHEMES``.
        host: host name or IP address, without brackets.
        port: port; None for the default of the scheme.
        user, password: credentials; None if the address has none.
        path: path with its leading slash, percent-encoded as given.
        query: query as given.
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
        """Parse an address. If it has a user but no password, take the password from the environment.

        Args:
            text: the address, such as ``mqtt://USER:PASSWORD@HOST:PORT/TOPIC``.
            environ: environment that ``PASSWORD_VARIABLE`` is looked up in.

        Raises:
            AddressError: if the text is not an address of an event receiver.

        Examples:
            >>> Address.parse("mqtt://camera:secret@broker:1884/yard").location
            'broker:1884'
        """
        try:
            parts = urlsplit(text)
            port, host = parts.port, parts.hostname
        except ValueError as error:  # its text may quote the password
            raise AddressError(f"{redact(text)}: the host or the port of this address cannot be parsed") from error
        if parts.scheme not in SCHEMES:
            raise AddressError(
                f"{redact(text)}: expected an event receiver: mqtt://HOST/TOPIC, mqtts://HOST/TOPIC, http:// or https://"
            )
        if not host or "#" in text or any(ord(char) <= 32 or ord(char) == 127 for char in text):
            raise AddressError(
                f"{redact(text)}: expected {parts.scheme}://[USER:PASSWORD@]HOST[:PORT]/..., without spaces or #; "
                "write special characters of a password as %40 for @, %23 for #, %2F for /"
            )
        return cls(parts.scheme, host, port, *_credentials(parts, environ), parts.path, parts.query)

    @property
    def location(self) -> str:
        """``host`` or ``host:port``, for display."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def _credentials(parts: SplitResult, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return user, environ.get(PASSWORD_VARIABLE) if user and password is None else password
