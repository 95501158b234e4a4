"""A read-only file system with one folder to write to, as in a container that is started with ``--read-only``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retina_edge.assets import CHECKPOINT, FOREST, MODEL

ROOT = Path(__file__).parents[3]
# Run a command in a namespace of its own, in which only the folder in $1 can be written to.
SCRIPT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
cut -d ' ' -f 5 /proc/self/mountinfo | while read -r place; do
    [ "$place" = "$1" ] || mount -o remount,bind,ro "$place" 2>/dev/null || true
done
cd /
if touch /tmp/retina_edge_probe 2>/dev/null; then rm /tmp/retina_edge_probe; echo "/tmp is writable" >&2; exit 77; fi
shift
exec "$@"
"""
EVENTS = ["serve", MODEL, "0", "--port", "0", "--line", "a=0,0 1,1", "--events", "mqtt://localhost/a"]
Command = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Command:
    """Return a function that starts a verb where only ``tmp_path`` can be written to; skip if that is not possible."""
    if shutil.which("unshare") is None:
        pytest.skip("a read-only file system needs the program unshare")
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-m"]

    def run(*command: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*namespace, "sh", "-c", SCRIPT, "sh", str(tmp_path), *map(str, command)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    probe = run("true")
    reason = probe.communicate()[1].strip()
    if probe.returncode:
        pytest.skip(f"a read-only file system cannot be made: {reason}")
    return lambda *arguments: run(sys.executable, "-m", "retina_edge", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["inspect", MODEL],
        ["inspect", CHECKPOINT],
        ["detect", MODEL, FOREST, "--save", "OUT/o", "--json", "OUT/o.jsonl"],
        ["demo", "-o", "OUT/d", "--frames", "2"],
    ],
)
def test_what_needs_no_other_folder_runs(start: Command, tmp_path: Path, arguments: list[object]) -> None:
    process = start(*(str(argument).replace("OUT", str(tmp_path)) for argument in arguments))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "-o: expected a folder that demo.mp4 can be written to, got .; use another one"),
        (["export", CHECKPOINT, "-o", "OUT/m.onnx"], "; set TMPDIR to a folder that can be written to"),
        (EVENTS, "; set TMPDIR to a folder that can be written to"),  # the package supervision asks for it
    ],
)
def test_what_needs_a_folder_names_the_option(
    start: Command, tmp_path: Path, arguments: list[object], message: str
) -> None:
    process = start(*(str(argument).replace("OUT", str(tmp_path)) for argument in arguments))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert message in errors.splitlines()[-1]


def served(process: subprocess.Popen[str]) -> str:
    """Stop a server after its start, and return what it has printed on stderr."""
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return errors


def test_serve_starts_and_stops(start: Command) -> None:
    assert "Read-only" not in served(start("serve", MODEL, "0", "--port", "0"))


def test_events_wait_in_memory_until_a_spool_is_given(
    start: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert "wait in memory; free some space or choose another folder with --spool" in served(start(*EVENTS))
    assert "wait in memory" not in served(start(*EVENTS, "--spool", tmp_path / "spool"))
