"""The text of a systemd unit that runs ``retina-edge serve`` from boot on.

Words of ExecStart are written by the rules of systemd.service(5), "Command lines", and systemd.syntax(7): in double
quotes, ``\\`` before ``\\`` and ``"``, ``%%`` for a percent sign (else a specifier), ``$$`` for a dollar (else a
variable). An argument that holds credentials does not stand in the unit, which everyone may read: the unit names a
variable in its place, and an environment file that only root reads holds the value.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.core.errors import DeploymentError
from retina_edge.system.redaction import holds_credentials, is_secret_option

NAME = "retina-edge"
# Of a camera (/dev/video*) and of a Jetson's or a desktop's GPU (/dev/nvhost-*, /dev/dri/render*).
GROUPS = ("video", "render")
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./$-]+")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\", "%": "%%", "$": "$$"}

HARDENING = """\
# Locked down as far as cameras, GPU and network allow. Left out on purpose: PrivateDevices and ProtectClock, which shut
# /dev/video* and the GPU away, and MemoryDenyWriteExecute, because CUDA compiles while it runs.
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
UMask=0077"""


@dataclass(frozen=True)
class Service:
    """A unit and the credentials it needs.

    Attributes:
        name: of the service.
        unit: text of ``/etc/systemd/system/NAME.service``; without credentials.
        environment: text of the environment file, with the credentials; empty where there are none. Not for logs.
        environment_file: where the unit looks for it; to be made readable by root only.
    """

    name: str
    unit: str
    environment: str
    environment_file: Path


def systemd_service(
    arguments: Sequence[str],
    *,
    name: str = NAME,
    interpreter: Path | str | None = None,
    working_directory: Path | str | None = None,
    user: str | None = None,
    groups: Sequence[str] = GROUPS,
    writable: Sequence[Path | str] = (),
) -> Service:
    """A unit that runs ``python -m retina_edge serve ARGUMENTS``.

    Args:
        arguments: of ``serve``, as the shell gave them, ``--install-service`` left out.
        name: of the service, of its state, cache and runtime folders, and of the environment file.
        interpreter: absolute path of Python; the running one where None.
        working_directory: absolute; relative paths in the arguments start here. The present one where None.
        user: runs it; where None systemd makes one up (DynamicUser), who reads only what everyone may read.
        groups: that user's further groups; those that do not exist there keep the service from starting.
        writable: folders that outputs go to, absolute; all else is read-only but /var/lib/NAME and /var/cache/NAME.

    Raises:
        DeploymentError: a name, path or argument that no unit can hold.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise DeploymentError(f"name: expected letters, digits, '_', '-' and '.', got {name!r}")
    for what, value in (("user", user), *(("group", group) for group in groups)):
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?", value):
            raise DeploymentError(f"{what}: expected the name of one, got {value!r}")
    python = _absolute("interpreter", sys.executable if interpreter is None else interpreter)
    if set(python) & set("$\"'\\"):
        raise DeploymentError(
            "interpreter: expected a path without $, quotes and backslashes, which systemd takes for no program, got "
            f"{python}; install into another folder"
        )
    directory = _absolute("working directory", Path.cwd() if working_directory is None else working_directory)
    public, secrets = split_secrets(arguments)
    environment_file = Path("/etc") / NAME / f"{name}.env"
    words = [quoted(word) for word in (python, "-m", "retina_edge", "serve")]
    words += [word if variable else quoted(word) for word, variable in public]
    account = [f"User={user}"] if user is not None else ["DynamicUser=yes"]
    lines = [
        *_secrets_note(secrets, environment_file),
        "[Unit]",
        "Description=retina-edge: objects in live video",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join(words)}",
        # A path is not split into words, so it takes no quotes, but it takes specifiers.
        f"WorkingDirectory={_path(directory)}",
        *([f"EnvironmentFile={_path(str(environment_file))}"] if secrets else []),
        f"Environment=XDG_CACHE_HOME=%C/{name} CUDA_CACHE_PATH=%C/{name}/cuda PYTHONUNBUFFERED=1",
        "# Makes /dev/nvidia-uvm, for which CUDA has a setuid program; NoNewPrivileges stops that. Not on a Jetson.",
        "ExecStartPre=-+/usr/bin/nvidia-modprobe -u -c=0",
        "# The pause doubles or so from 1 s to 60 s. Before systemd 254 the two lines behind it are passed over.",
        "Restart=on-failure",
        "RestartSec=1",
        "RestartSteps=6",
        "RestartMaxDelaySec=60",
        "# A detector that hangs is given up after a minute, then outputs have their time.",
        "TimeoutStopSec=90",
        *account,
        *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
        f"StateDirectory={name}",
        f"CacheDirectory={name}",
        *(f"ReadWritePaths={quoted_path(_absolute('writable', path))}" for path in writable),
        "# Jetson cameras speak to their daemon through this socket, which PrivateTmp would hide.",
        "BindPaths=-/tmp/argus_socket",
        HARDENING,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    environment = "".join(f'{variable}="{_environment_value(value)}"\n' for variable, value in secrets.items())
    return Service(name, "\n".join(lines) + "\n", environment, environment_file)


def split_secrets(arguments: Sequence[str]) -> tuple[list[tuple[str, bool]], dict[str, str]]:
    """Arguments for the unit, and what must not stand in it.

    Credentials are: a user or password in a URL, also inside a pipeline; a value named like one (``?token=``,
    ``user-pw=``); and what follows or belongs to an option named like one (``--token``, ``--mqtt-password=``).

    Returns:
        The words, each with whether it is a reference to a variable, and the variables with their values.
    """
    public: list[tuple[str, bool]] = []
    secrets: dict[str, str] = {}
    follows = False
    for number, argument in enumerate(arguments, start=1):
        is_option = is_secret_option(argument)
        if not is_option and (follows or holds_credentials(argument)):
            variable = f"RETINA_EDGE_ARGUMENT_{number}"
            secrets[variable] = argument
            public.append((f"${{{variable}}}", True))
        else:
            public.append((argument, False))
        follows = is_option
    return public, secrets


def quoted(word: str) -> str:
    """A word of ExecStart that systemd reads back as it is."""
    if "\0" in word:
        raise DeploymentError("argument: expected text, got a NUL byte in it")
    escaped = "".join(_escaped(character) for character in word)
    return escaped if word and _PLAIN.fullmatch(word) else f'"{escaped}"'


def quoted_path(path: str) -> str:
    """A path in a list of paths: words and specifiers, but no variables."""
    return quoted(path).replace("$$", "$")


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\x{ord(character):02x}" if ord(character) < 0x20 or ord(character) == 0x7F else character


def _path(path: str) -> str:
    return path.replace("%", "%%")


def _absolute(what: str, path: Path | str) -> str:
    text = str(path)
    if not text.startswith("/") or any(ord(character) < 0x20 for character in text) or text != text.strip():
        raise DeploymentError(f"{what}: expected an absolute path on one line, got {text!r}")
    return text


def _environment_value(value: str) -> str:
    """Inside double quotes of an environment file a backslash stands before these four, and nothing is expanded."""
    if "\0" in value:
        raise DeploymentError("argument: expected text, got a NUL byte in it")
    return re.sub(r'(["\\$`])', r"\\\1", value)


def _secrets_note(secrets: dict[str, str], environment_file: Path) -> list[str]:
    if not secrets:
        return []
    return [
        f"# Arguments with credentials stand in {environment_file}, mode 600, owner root: {', '.join(secrets)}.",
        "# On the running machine the command line shows them to whoever may list its processes. Arguments in a file",
        "# that the service's user can read (@FILE, one a line) it does not.",
        "",
    ]
