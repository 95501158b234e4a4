"""The text of a systemd unit that starts ``retina-edge serve`` at boot.

Words of ExecStart follow the rules of systemd.service(5), "Command lines", and systemd.syntax(7): double quotes, ``\\``
before ``\\`` and ``"``, ``%%`` for a percent sign (otherwise a specifier), ``$$`` for a dollar (otherwise a variable).
Every user can read the unit, so it contains no credentials: an argument with credentials is replaced by a variable, and
the value is in an environment file that only root can read.
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
# Groups that may use cameras (/dev/video*) and the GPU of a Jetson or a desktop (/dev/nvhost-*, /dev/dri/render*).
GROUPS = ("video", "render")
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./$-]+")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\", "%": "%%", "$": "$$"}

HARDENING = """\
# As many restrictions as cameras, GPU and network allow. Omitted on purpose: PrivateDevices and ProtectClock, because
# they block /dev/video* and the GPU, and MemoryDenyWriteExecute, because CUDA compiles code at run time.
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
    """A systemd unit and the credentials it needs.

    Attributes:
        name: name of the service.
        unit: text of ``/etc/systemd/system/NAME.service``, without credentials.
        environment: text of the environment file, with the credentials; empty if there are none. Do not log it.
        environment_file: path of the environment file in the unit; only root may be able to read it.
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
    """Return a unit that runs ``python -m retina_edge serve ARGUMENTS``.

    Args:
        arguments: arguments of ``serve``, as from the shell, without ``--install-service``.
        name: name of the service, of its state and cache folders, and of the environment file.
        interpreter: absolute path of Python; None for the running one.
        working_directory: absolute path that relative paths in the arguments start from; None for the current one.
        user: user that runs the service; None for a temporary user of systemd (DynamicUser), which can only read files
            that every user can read.
        groups: supplementary groups of the user. The service does not start if one of them does not exist.
        writable: absolute paths of folders for outputs. Except for these, /var/lib/NAME and /var/cache/NAME, the file
            system is read-only.

    Raises:
        DeploymentError: if a name, a path or an argument cannot be written into a unit.

    Examples:
        >>> service = systemd_service(["model.engine", "rtsp://admin:secret@camera/1"], working_directory="/srv")
        >>> "secret" in service.unit
        False
        >>> service.environment
        'RETINA_EDGE_ARGUMENT_2="rtsp://admin:secret@camera/1"\\n'
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise DeploymentError(f"name: expected letters, digits, '_', '-' and '.', got {name!r}")
    for what, value in (("user", user), *(("group", group) for group in groups)):
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?", value):
            raise DeploymentError(f"{what}: expected the name of a {what}, got {value!r}")
    python = _absolute("interpreter", sys.executable if interpreter is None else interpreter)
    if set(python) & set("$\"'\\"):
        raise DeploymentError(
            "interpreter: expected a path without $, quotes and backslashes, which systemd does not accept in the path "
            f"of a program, got {python}; install into another folder"
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
        # systemd does not split this path into words or remove quotes, but it expands specifiers.
        f"WorkingDirectory={_path(directory)}",
        *([f"EnvironmentFile={_path(str(environment_file))}"] if secrets else []),
        f"Environment=XDG_CACHE_HOME=%C/{name} CUDA_CACHE_PATH=%C/{name}/cuda PYTHONUNBUFFERED=1",
        "# Creates /dev/nvidia-uvm. CUDA would run this setuid program, which NoNewPrivileges blocks. Jetsons lack it.",
        "ExecStartPre=-+/usr/bin/nvidia-modprobe -u -c=0",
        "# The pause grows from 1 s to 60 s. Before systemd 254, RestartSteps and RestartMaxDelaySec are ignored.",
        "Restart=on-failure",
        "RestartSec=1",
        "RestartSteps=6",
        "RestartMaxDelaySec=60",
        "# serve gives up on a hanging detector after a minute, and then needs time to close its outputs.",
        "TimeoutStopSec=90",
        *account,
        *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
        f"StateDirectory={name}",
        f"CacheDirectory={name}",
        *(f"ReadWritePaths={quoted_path(_absolute('writable', path))}" for path in writable),
        "# Jetson cameras talk to their daemon through this socket, which PrivateTmp would hide.",
        "BindPaths=-/tmp/argus_socket",
        HARDENING,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    environment = "".join(f'{variable}="{_environment_value(value)}"\n' for variable, value in secrets.items())
    return Service(name, "\n".join(lines) + "\n", environment, environment_file)


def split_secrets(arguments: Sequence[str]) -> tuple[list[tuple[str, bool]], dict[str, str]]:
    """Replace the arguments that contain credentials with variables.

    Credentials are: a user or password in a URL, also inside a pipeline; a value with the name of a secret
    (``?token=``, ``user-pw=``); and the value of an option with such a name (``--token``, ``--mqtt-password=``).

    Returns:
        The words, each with True if it is a reference to a variable, and the values of the variables by name.

    Examples:
        >>> words, variables = split_secrets(["--token", "abc"])
        >>> words
        [('--token', False), ('${RETINA_EDGE_ARGUMENT_2}', True)]
        >>> variables
        {'RETINA_EDGE_ARGUMENT_2': 'abc'}
    """
    public: list[tuple[str, bool]] = []
    secrets: dict[str, str] = {}
    after_secret_option = False
    for number, argument in enumerate(arguments, start=1):
        is_option = is_secret_option(argument)
        if not is_option and (after_secret_option or holds_credentials(argument)):
            variable = f"RETINA_EDGE_ARGUMENT_{number}"
            secrets[variable] = argument
            public.append((f"${{{variable}}}", True))
        else:
            public.append((argument, False))
        after_secret_option = is_option
    return public, secrets


def quoted(word: str) -> str:
    """Quote a word of ExecStart, so that systemd reads it back unchanged.

    Raises:
        DeploymentError: if the word contains a NUL byte.

    Examples:
        >>> print(quoted("100% of $HOME"))
        "100%% of $$HOME"
    """
    if "\0" in word:
        raise DeploymentError("argument: expected text, got a NUL byte in it")
    escaped = "".join(_escaped(character) for character in word)
    return escaped if word and _PLAIN.fullmatch(word) else f'"{escaped}"'


def quoted_path(path: str) -> str:
    """Quote a path in a list of paths, where systemd expands specifiers but no variables.

    Examples:
        >>> print(quoted_path("/srv/out put"))
        "/srv/out put"
    """
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
    """Escape a value for double quotes in an environment file, where systemd expands nothing."""
    if "\0" in value:
        raise DeploymentError("argument: expected text, got a NUL byte in it")
    return re.sub(r'(["\\$`])', r"\\\1", value)


def _secrets_note(secrets: dict[str, str], environment_file: Path) -> list[str]:
    if not secrets:
        return []
    return [
        f"# Arguments with credentials are in {environment_file}, mode 600, owner root: {', '.join(secrets)}.",
        "# While the service runs, users who may list its processes see them in the command line. To avoid this, put",
        "# the arguments into a file that the service's user can read (@FILE, one argument per line).",
        "",
    ]
