"""The systemd unit: parsed by systemd's rules, checked by systemd-analyze, and free of credentials."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engines.core.errors import DeploymentError
from retina_edge.deployment.systemd import Service, quoted, systemd_service
from retina_edge.system.redaction import holds_credentials

# Keys that the systemd of Debian 12 does not know. It warns about them and continues.
NEW_KEYS = ("RestartSteps", "RestartMaxDelaySec")
ODD = [
    "plain",
    "two words",
    "",
    "100%",
    "%i %% %h",
    "$HOME",
    "${HOME}",
    "a$$b",
    'say "hi"',
    "it's",
    "back\\slash \\n \\x41",
    ";",
    "a;b",
    "#no comment",
    "@-+!:",
    "line\nbreak\ttab\r\x01\x7f",
    "Bäume 木",
    "rtspsrc location=rtsp://cam/1 latency=0 ! decodebin",
    "--zone=a:0,0 10,10",
    "trailing\\",
    " ",
]
CREDENTIALS = [
    "rtsp://user:pass@cam/1",
    "rtsp://user@cam/1",
    "rtsp://admin:p@ss/w%20rd$@cam/1?x=1",
    "http://cam/video?token=abc",
    "https://cam/v.m3u8?a=1&Password=x",
    "rtspsrc location=rtsp://cam user-id=me user-pw=secret ! decodebin",
    "rtspsrc location=rtsp://u:p@cam ! decodebin",
    "--mqtt-password=x",
    "--token=abc",
]


def make(*arguments: str, **options: Any) -> Service:
    return systemd_service(arguments, **{"interpreter": sys.executable, "working_directory": "/", **options})


def values(unit: str, key: str) -> list[str]:
    """Return the values of a key, in order."""
    return re.findall(rf"^{key}=(.*)$", unit, flags=re.M)


def command(unit: str, environment: dict[str, str] | None = None) -> list[str]:
    """Return the words of ExecStart, parsed by the rules of systemd.service(5) and systemd.syntax(7)."""
    (line,) = values(unit, "ExecStart")
    words = [expand_specifiers(word) for word in split(line)]
    return [words[0], *(expand_variables(word, environment or {}) for word in words[1:])]


def split(line: str) -> list[str]:
    """Split a line into words, and resolve quotes and escapes."""
    words: list[str] = []
    word: str | None = None
    quote, at = "", 0
    while at < len(line):
        character = line[at]
        at += 1
        if character == "\\":
            word = word or ""
            if line[at] == "x":
                word += chr(int(line[at + 1 : at + 3], 16))
                at += 3
            else:
                word += {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\", "s": " "}[line[at]]
                at += 1
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character in "\"'":
            quote, word = character, word or ""
        elif character in " \t":
            if word is not None:
                words.append(word)
            word = None
        else:
            # An unquoted semicolon between spaces would begin another command.
            assert not (character == ";" and word is None and line[at : at + 1] in ("", " ")), line
            word = (word or "") + character
    assert not quote, line
    return words if word is None else [*words, word]


def expand_specifiers(word: str) -> str:
    assert not re.search(r"%[^%]", word.replace("%%", "")), f"{word!r} has a specifier"
    return word.replace("%%", "%")


def expand_variables(word: str, environment: dict[str, str]) -> str:
    return re.sub(
        r"\$\$|\$\{(\w+)\}|\$(\w+)",
        lambda match: "$" if match.group() == "$$" else environment[match.group(1) or match.group(2)],
        word,
    )


def parse_environment(text: str) -> dict[str, str]:
    """Parse an environment file with values in double quotes, by the rules of systemd.exec(5)."""
    pairs = re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, flags=re.M | re.S)
    return {name: re.sub(r'\\(["\\$`\n])', r"\1", value) for name, value in pairs}


@pytest.mark.parametrize("argument", ODD)
def test_every_argument_arrives_unchanged(argument: str) -> None:
    assert command(make("model.engine", argument, "end").unit)[1:] == [
        "-m",
        "retina_edge",
        "serve",
        "model.engine",
        argument,
        "end",
    ]


def test_no_arguments_and_many_arguments() -> None:
    assert command(make().unit) == [sys.executable, "-m", "retina_edge", "serve"]
    assert command(make(*ODD).unit)[4:] == ODD


@pytest.mark.parametrize("secret", CREDENTIALS)
def test_credentials_are_only_in_the_environment_file(secret: str) -> None:
    service = make("model.engine", secret, "rtsp://cam/2")
    assert secret not in service.unit
    assert "pass" not in service.unit.split("[Service]")[1].split("WorkingDirectory")[0]
    assert values(service.unit, "EnvironmentFile") == ["/etc/retina-edge/retina-edge.env"]
    environment = parse_environment(service.environment)
    assert environment == {"RETINA_EDGE_ARGUMENT_2": secret}
    assert command(service.unit, environment)[4:] == ["model.engine", secret, "rtsp://cam/2"]


@pytest.mark.parametrize("option", ["--token", "--mqtt-password", "--webhook-secret", "--api-key"])
def test_the_value_of_a_secret_option_is_only_in_the_environment_file(option: str) -> None:
    service = make("m.engine", option, 'a"b\\c$d`e f', "--port", "80", "--token-file", "path")
    environment = parse_environment(service.environment)
    assert list(environment.values()) == ['a"b\\c$d`e f']
    assert command(service.unit, environment)[4:] == [
        "m.engine",
        option,
        'a"b\\c$d`e f',
        "--port",
        "80",
        "--token-file",
        "path",
    ]


@pytest.mark.parametrize(
    "argument",
    ["rtsp://cam/1", "http://cam:8080/video?channel=1", "csi://0", "0", "--port=80", "me@host.mp4", "tokens.mp4"],
)
def test_arguments_without_secrets_stay_in_the_unit(argument: str) -> None:
    assert not holds_credentials(argument)
    service = make("m.engine", argument)
    assert service.environment == ""
    assert not values(service.unit, "EnvironmentFile")


def test_the_keys_of_the_unit() -> None:
    unit = make("m.engine", name="gate", writable=["/srv/out put", "/srv/100%"]).unit
    assert values(unit, "After") == values(unit, "Wants") == ["network-online.target"]
    assert values(unit, "Restart") == ["on-failure"]
    assert values(unit, "StartLimitIntervalSec") == ["0"]
    assert values(unit, "DynamicUser") == ["yes"]
    assert not values(unit, "User")
    assert values(unit, "SupplementaryGroups") == ["video render"]
    assert values(unit, "StateDirectory") == values(unit, "CacheDirectory") == ["gate"]
    assert values(unit, "ReadWritePaths") == ['"/srv/out put"', "/srv/100%%"]
    assert values(unit, "NoNewPrivileges") == ["yes"]
    # Each of these keys would block cameras, the GPU, or CUDA's compiler.
    for key in ("PrivateDevices", "ProtectClock", "MemoryDenyWriteExecute", "DevicePolicy", "PrivateNetwork"):
        assert not values(unit, key), key
    account = make("m.engine", user="pi", groups=()).unit
    assert values(account, "User") == ["pi"]
    assert not values(account, "DynamicUser")
    assert not values(account, "SupplementaryGroups")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["a\0b"], {}, "NUL byte"),
        (["--token", "a\0b"], {}, "NUL byte"),
        ([], {"name": "a b"}, "name: expected"),
        ([], {"name": "../x"}, "name: expected"),
        ([], {"interpreter": "python"}, "interpreter: expected an absolute path"),
        ([], {"interpreter": "/opt/$x/python"}, "does not accept in the path of a program"),
        ([], {"interpreter": "/opt/it's/python"}, "does not accept in the path of a program"),
        ([], {"working_directory": "here"}, "working directory: expected an absolute path"),
        ([], {"working_directory": "/a\nUser=root"}, "on one line"),
        ([], {"writable": ["out"]}, "writable: expected"),
        ([], {"user": "a\nb"}, "user: expected the name of a user"),
        ([], {"groups": ["video", "a b"]}, "group: expected the name of a group"),
    ],
)
def test_values_that_a_unit_cannot_contain_are_refused(
    arguments: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeploymentError, match=message):
        make(*arguments, **options)


def test_words_are_quoted_only_if_necessary() -> None:
    assert [quoted(word) for word in ("a/b:1", "50%", "$x", "a b", "")] == ["a/b:1", "50%%", "$$x", '"a b"', '""']


@pytest.mark.parametrize("folder", ["plain", "with space", "100% sure;", "Bäume"])
def test_systemd_analyze_accepts_the_unit(tmp_path: Path, folder: str) -> None:
    """systemd checks that the interpreter is executable, and its path only exists if systemd parses it correctly."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, from the Debian package systemd")
    interpreter = tmp_path / folder / "python"
    interpreter.parent.mkdir()
    interpreter.write_text("#!/bin/sh\n")
    interpreter.chmod(0o755)
    service = make(
        *ODD, *CREDENTIALS, interpreter=interpreter, working_directory=interpreter.parent, writable=[interpreter.parent]
    )
    path = tmp_path / "retina-edge.service"
    path.write_text(service.unit)
    run = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    warnings = [line for line in run.stderr.splitlines() if str(path) in line]
    assert [line for line in warnings if not any(key in line for key in NEW_KEYS)] == []
    assert run.returncode == 0, run.stderr
    # Show that the check can fail: it does without the interpreter.
    interpreter.unlink()
    run = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "not executable" in run.stderr
