"""A subprocess with a time limit: its output is shown, its last lines are kept, and it is killed in time."""

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

# Last lines that are kept, enough for a traceback.
LINES = 40
# Seconds from SIGTERM to SIGKILL, and seconds to wait for the rest of the output.
GRACE = 5.0


def run_step(
    name: str, arguments: Sequence[str], seconds: float, *, folder: Path, launcher: Sequence[str] = ()
) -> dict[str, Any]:
    """Run Python with arguments; return how the step ended, its duration and, if it failed, its last lines.

    Args:
        name: name of the step.
        arguments: arguments of Python.
        seconds: time limit; afterwards the process and all its children are ended.
        folder: working directory.
        launcher: program that starts Python, with its options; empty for none.
    """
    if seconds <= 0:
        return {"step": name, "ended": "no time left", "seconds": 0.0}
    start, last = perf_counter(), deque[str](maxlen=LINES)
    process = subprocess.Popen(
        [*launcher, sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    # A daemon, because a process that has left the group may keep the pipe open for as long as it likes.
    reader = threading.Thread(target=_show, args=(process, last), name=f"output of {name}", daemon=True)
    reader.start()
    try:
        code = process.wait(timeout=seconds)
        ended = "ok" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        ended = f"took longer than {seconds:.0f} s"
    finally:  # also after Ctrl-C
        _end(process)
        reader.join(GRACE)
    outcome: dict[str, Any] = {"step": name, "ended": ended, "seconds": round(perf_counter() - start, 1)}
    return outcome if ended == "ok" else {**outcome, "last_lines": [without_folders(line) for line in last]}


def _show(process: subprocess.Popen[str], last: deque[str]) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            sys.stdout.write(line)
            sys.stdout.flush()
            last.append(line.rstrip("\n"))


def _end(process: subprocess.Popen[str]) -> None:
    """End the whole process group: a worker that outlives the process would hold the GPU and the output pipe."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
