"""A GStreamer pipeline in a process of its own, whose frames come through a pipe.

``gst-launch-1.0`` runs the user's pipeline with ``videoconvert ! gdppay ! fdsink`` behind it. The GStreamer Data
Protocol puts a header of 62 bytes before each frame and tells the caps, as text, whenever they change: so the size
is known exactly, in mid-stream as well, and a frame is read straight into its own array.

The process cannot outlive its source: it is killed on closing, by the kernel when this process dies, and a driver
that hangs it hangs nothing here, because every wait ends by a wake-up pipe too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOOL = "gst-launch-1.0"

_HEADER = 62
_BUFFER, _CAPS = 1, 2
_NO_TIME = 2**64 - 1
# Caps and events are short texts; anything longer is not this protocol.
_MAX_TEXT = 1 << 20
# The most that Linux gives to a user by default; the larger, the fewer calls a frame.
_PIPE_SIZE = 1 << 20
_KEPT_LINES = 60
# Some camera drivers need their pipeline stopped in order; longer than this the caller does not wait.
_STOP_SECONDS = 0.4

# Ends the process with the thread that started it, then becomes gst-launch: a hook between fork and exec
# (preexec_fn) is not safe beside threads.
_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class PipelineEnd(Exception):
    """No more frames come.

    Attributes:
        reason: for people.
        whole: the pipeline itself said that it is at its end.
    """

    def __init__(self, reason: str, *, whole: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.whole = whole


@dataclass(frozen=True)
class Caps:
    """What the pipeline says of its frames: (height, width) in pixels, and frames a second where it knows."""

    size: tuple[int, int]
    fps: float | None


class GstLaunch:
    """One run of a pipeline. ``interrupt`` may be called from any thread, the rest from one at a time.

    Args:
        elements: the pipeline as words, without the sink.
    """

    def __init__(self, elements: Sequence[str]) -> None:
        self._elements = list(elements)
        self.caps: Caps | None = None
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._started = threading.Event()
        self._failure: OSError | ValueError | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._frames, self._write_end = os.pipe()
        self._wake, self._wake_end = os.pipe()
        os.set_blocking(self._frames, False)
        with contextlib.suppress(OSError, AttributeError):  # another system, or the user's share of pipes is used up
            fcntl.fcntl(self._frames, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._open = True
        self._poll = select.poll()
        self._poll.register(self._frames, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        # It lives as long as the process, as it must: the kernel ties the process to the thread that started it.
        self._keeper = threading.Thread(target=self._keep, name="gst-launch", daemon=True)

    def start(self) -> None:
        """Starts the process.

        Raises:
            OSError, ValueError: it cannot be started.
        """
        self._keeper.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def read_caps(self, seconds: float) -> Caps:
        """Waits for the first caps.

        Raises:
            PipelineEnd: none came in so many seconds, or at all.
        """
        deadline = time.monotonic() + seconds
        while self.caps is None:
            self._packet(deadline, seconds)
        return self.caps

    def read(self, seconds: float) -> tuple[npt.NDArray[np.uint8], float | None]:
        """The next frame, uint8 [height, width, 3] BGR, the caller's own, and its time in seconds where it has one.

        Raises:
            PipelineEnd: none came in so many seconds, the pipeline ended or broke, or ``interrupt`` was called.
        """
        deadline = time.monotonic() + seconds
        while (frame := self._packet(deadline, seconds)) is None:
            pass
        return frame

    def interrupt(self) -> None:
        """Ends the read in progress, and every later one, at once."""
        with self._lock:
            if self._open:
                os.write(self._wake_end, b"x")

    def close(self) -> None:
        """Ends the process, its group included, and frees everything. May be called again."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        os.close(self._frames)  # a pipeline that writes ends by the broken pipe
        if self._keeper.ident is None:
            os.close(self._write_end)
        if self._process is not None:
            self._end(self._process)
            self._keeper.join(_STOP_SECONDS)
        os.close(self._wake)
        os.close(self._wake_end)

    def last_words(self) -> str:
        """What the process said about its end, in one line; empty where it said nothing."""
        return error_summary(list(self._lines))

    def _keep(self) -> None:
        """Starts the process and takes up what it prints, so that it never waits for a reader."""
        try:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(self._write_end,),
                start_new_session=True,  # Ctrl-C is this process's to handle
                env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C", "GST_DEBUG_NO_COLOR": "1"},
                text=True,
                errors="replace",
            )
        except (OSError, ValueError) as error:
            self._failure = error
            return
        finally:
            os.close(self._write_end)
            self._started.set()
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.append(line.strip())

    def _command(self) -> list[str]:
        tool = shutil.which(TOOL)
        if tool is None:
            raise FileNotFoundError(f"{TOOL} is not installed")
        # gst-launch joins its words by spaces again; after -- none of them is an option.
        sink = f"! videoconvert ! video/x-raw,format=BGR ! gdppay ! fdsink fd={self._write_end} sync=false".split()
        command = [tool, "--quiet", "--", *self._elements, *sink]
        if sys.platform.startswith("linux") and sys.executable:
            return [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
        return command

    def _end(self, process: subprocess.Popen[str]) -> None:
        for number in (signal.SIGINT, signal.SIGKILL):
            if process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            # Inside a driver that hangs not even SIGKILL ends it: then it is left to the kernel.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)

    def _packet(self, deadline: float, seconds: float) -> tuple[npt.NDArray[np.uint8], float | None] | None:
        """Takes one packet; the frame if it was one."""
        header = bytearray(_HEADER)
        self._fill(memoryview(header), deadline, seconds)
        kind = int.from_bytes(header[4:6], "big")
        length = int.from_bytes(header[6:10], "big")
        if header[0] != 1 or (kind != _BUFFER and length > _MAX_TEXT):
            raise PipelineEnd("what came is not the GStreamer Data Protocol")
        if kind != _BUFFER:
            text = bytearray(length)
            self._fill(memoryview(text), deadline, seconds)
            if kind == _CAPS:
                self.caps = parse_caps(text.decode(errors="replace"))
            return None
        if self.caps is None:
            raise PipelineEnd("a frame came before its caps")
        height, width = self.caps.size
        stride = -(-3 * width // 4) * 4  # GStreamer's rows begin at multiples of 4 bytes
        if length != stride * height:
            raise PipelineEnd(f"a frame of {width}x{height} pixels has {length} bytes, expected {stride * height}")
        data = np.empty((height, stride), np.uint8)
        self._fill(data.data.cast("B"), deadline, seconds)
        time_ns = int.from_bytes(header[10:18], "big")
        image = np.ascontiguousarray(data[:, : 3 * width]).reshape(height, width, 3)
        return image, None if time_ns == _NO_TIME else time_ns / 1e9

    def _fill(self, view: memoryview, deadline: float, seconds: float) -> None:
        done = 0
        while done < len(view):
            ready = dict(self._poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))))
            if self._wake in ready:
                raise PipelineEnd("it was interrupted")
            if not ready:
                raise PipelineEnd(f"no frame came for {seconds:g} s")
            with contextlib.suppress(BlockingIOError):
                count = os.readv(self._frames, [view[done:]])
                if count == 0:
                    raise self._ended()
                done += count

    def _ended(self) -> PipelineEnd:
        """Why the pipe closed: the process is ending, and first says why."""
        assert self._process is not None
        self._keeper.join(2 * _STOP_SECONDS)
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return PipelineEnd(self.last_words() or "it closed its pipe")
        if code == 0:
            return PipelineEnd("it ended", whole=True)
        return PipelineEnd(self.last_words() or f"{TOOL} ended by {_name(code)}")


def parse_caps(text: str) -> Caps:
    """The frames that raw video caps describe, for instance
    ``video/x-raw, format=(string)BGR, width=(int)64, height=(int)48, framerate=(fraction)30/1``.

    Raises:
        PipelineEnd: another format, or no size.
    """
    fields = dict(re.findall(r"([\w-]+)=\(\w+\)([\w/]+)", text))
    try:
        size = int(fields["height"]), int(fields["width"])
        top, bottom = (int(part) for part in fields.get("framerate", "0/1").split("/"))
    except (KeyError, ValueError) as error:
        raise PipelineEnd(f"expected caps of raw video with a size, got {text[:200]!r}") from error
    if fields.get("format") != "BGR" or min(size) < 1:
        raise PipelineEnd(f"expected frames in BGR, got {text[:200]!r}")
    return Caps(size, top / bottom if top > 0 and bottom > 0 else None)


def error_summary(lines: Sequence[str]) -> str:
    """The first error among gst-launch's lines, with the last line of its debug information; else the last lines."""
    for index, line in enumerate(lines):
        if (found := line.partition("erroneous pipeline: "))[1]:
            return found[2]
        if match := re.match(r"ERROR: from element \S*[/:]([^/\s:]+): (.+)", line):
            rest = list(lines[index + 1 :])
            until = next((i for i, other in enumerate(rest) if other.startswith("ERROR:")), len(rest))
            details = [other for other in rest[:until] if other and not other.endswith(":")][-1:]
            return " ".join([f"{match[1]}: {match[2]}", *(f"({detail})" for detail in details)])
    return "; ".join(line for line in lines[-3:] if line)


def _name(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
