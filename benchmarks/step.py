"""One program of several that share a time limit: its output is shown, its end is kept, and it is stopped in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.record import without_folders

# Of what a program said last, enough for a traceback.
LINES = 40
# From being asked to end to being ended, and for the rest of its output to come through.
GRACE = 5.0


def run_step(name: str, arguments: Sequence[str], seconds: float, *, folder: Path) -> dict[str, Any]:
    """Runs Python with arguments, and gives how it ended, how long it took, and its last lines where it failed.

    Args:
        name: of the step.
        arguments: of Python.
        seconds: it may take; afterwards it is ended, and with it whatever it has started.
        folder: to run in.
    """
    if seconds <= 0:
        return {"step": name, "ended": "no time left", "seconds": 0.0}
    start, last = perf_counter(), deque[str](maxlen=LINES)
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    reader = threading.Thread(target=_show, args=(process, last), name=f"output of {name}")
    reader.start()
    try:
        code = process.wait(timeout=seconds)
        ended = "ok" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        ended = f"took longer than {seconds:.0f} s"
    finally:  # after Ctrl-C, too
        _end(process)
        reader.join(GRACE)
    found: dict[str, Any] = {"step": name, "ended": ended, "seconds": round(perf_counter() - start, 1)}
    return found if ended == "ok" else {**found, "last_lines": [without_folders(line) for line in last]}


def _show(process: subprocess.Popen[str], last: deque[str]) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            sys.stdout.write(line)
            sys.stdout.flush()
            last.append(line.rstrip("\n"))


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the program's whole group: workers it has started would go on, and keep the GPU and its output."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
