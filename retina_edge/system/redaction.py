"""The redaction of credentials in addresses, pipelines and arguments, for names, messages and logs.

If in doubt, all patterns hide too much rather than show part of a password.
"""

from __future__ import annotations

import re

# host[:port] without a user; an IPv6 host in brackets.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:@\[\]]*)(?::\d*)?")
# Some cameras take credentials in the path: /user=admin_password=tlJwpbo6_channel=1_stream=0.sdp
_SECRET_PATH = re.compile(r"/[^/]*(?:user|pass|pwd|token|secret|key|auth)[^/=]*=.*", re.IGNORECASE | re.DOTALL)
# Property names of GStreamer elements.
_SECRET_PROPERTY = re.compile(r"pw|pass|secret|token|key|auth|cookie", re.IGNORECASE)
# Names of options, query parameters and properties whose values are secret.
_SECRET_NAME = r"(?:pass(?:word|wd|phrase)?|pwd|tokens?|secret|api[-_]?key|auth|credentials?|user-pw|signature|sig|key)"
# user:password@ in a URL, also inside a GStreamer pipeline. The password may contain a slash that should be escaped.
_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*@")
# user:password@ without a scheme, as a typing error leaves it.
_BARE_USERINFO = re.compile(r"[^\s/@:\[\]\\]*:(?!//)[^\s\[\]\\]*@(?=\S)")
# The same with a space in the password.
_SPACED_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@\s]*:[^/@]*@")
_SECRET_ASSIGNMENT = re.compile(
    rf"((?:^|[?&;\s_-]){_SECRET_NAME}\s*=\s*)(?:\"[^\"]*\"|'[^']*'|[^\s&;]+)", re.IGNORECASE
)
_SECRET_VALUE = re.compile(rf"(?:^|[?&;\s_-]){_SECRET_NAME}\s*=\s*\S", re.IGNORECASE)
_SECRET_OPTION = re.compile(rf"--(?:[a-z0-9]+-)*{_SECRET_NAME}", re.IGNORECASE)


def redact(address: str) -> str:
    """Replace the parts of an address that may be secret with ``***``: user, password, query, credentials in the path.

    The parts are also recognized if they contain characters that a URL should escape.

    Examples:
        >>> redact("rtsp://admin:secret@camera/stream?channel=1")
        'rtsp://***@camera/stream?***'
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return re.sub(r"\?.*$", "?***", _BARE_USERINFO.sub("***@", address), flags=re.DOTALL)
    before, question, after = rest.partition("?")
    host = before.partition("/")[0]
    bare = _HOST.fullmatch(host) is not None
    if "@" in before and not bare:
        before = f"***@{before.rpartition('@')[2]}"
    elif "@" in after and not bare:
        return f"{scheme}://***"
    before = _SECRET_PATH.sub("/***", before)
    return f"{scheme}://{before}" + ("?***" if question else "")


def redact_text(text: str) -> str:
    """Replace users and passwords in a text that quotes arguments, mistyped ones too, with ``***``.

    Examples:
        >>> redact_text("unrecognized arguments: rtsp//me:secret@camera --events=mqtt://me:secret@host/a")
        'unrecognized arguments: rtsp//***@camera --events=mqtt://***@host/a'
    """
    text = _SPACED_USERINFO.sub(lambda match: f"{match[0].partition('://')[0]}://***@", text)
    text = _USERINFO.sub(lambda match: f"{match[0].partition('://')[0]}://***@", text)
    text = _BARE_USERINFO.sub("***@", text)
    return _SECRET_ASSIGNMENT.sub(r"\1***", text)


def login_ends_early(address: str) -> bool:
    """True if a URL has an @ only behind its host: a # ? or / in the password, which ends it, may be the reason.

    Examples:
        >>> login_ends_early("rtsp://admin:pass#1@camera/live"), login_ends_early("rtsp://admin:pass%231@camera/live")
        (True, False)
    """
    host, *rest = re.split(r"[/?#]", address.partition("://")[2], maxsplit=1)
    return "@" not in host and "@" in "".join(rest)


def is_secret_property(name: str) -> bool:
    """True if the value of a GStreamer property with this name may be secret, such as ``user-pw``.

    Examples:
        >>> is_secret_property("user-pw"), is_secret_property("location")
        (True, False)
    """
    return _SECRET_PROPERTY.search(name) is not None


def is_secret_option(argument: str) -> bool:
    """True if an argument is an option with a secret value, such as ``--token``.

    Examples:
        >>> is_secret_option("--mqtt-password"), is_secret_option("--score")
        (True, False)
    """
    return _SECRET_OPTION.fullmatch(argument) is not None


def holds_credentials(argument: str) -> bool:
    """True if an argument itself contains credentials: a URL with a user, or ``password=...``.

    Examples:
        >>> holds_credentials("rtsp://admin:secret@camera/stream"), holds_credentials("rtsp://camera/stream")
        (True, False)
    """
    return bool(_USERINFO.search(argument) or _SECRET_VALUE.search(argument))
