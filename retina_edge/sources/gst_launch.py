"""A GStreamer pipeline in a separate process that sends its frames through a pipe.

``gst-launch-1.0`` runs the user's pipeline with ``videoconvert ! gdppay ! fdsink`` appended. The GStreamer Data
Protocol puts a header of 62 bytes before each frame, and sends the caps as text whenever they change. The frame size
is therefore always known, even if it changes, and a frame is read directly into its memory, if its rows have no gaps.

The process cannot outlive its source: ``close`` ends it, and the kernel kills it if this process dies. A driver that
hangs the process does not hang the source, because ``interrupt`` ends every wait through a wake-up pipe.
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

from engines.core.frame_pool import FramePool
from engines.core.letterbox import BgrImage

TOOL = "gst-launch-1.0"

_HEADER = 62
_BUFFER, _CAPS = 1, 2
_NO_TIME = 2**64 - 1
# Caps and events are short texts; a longer payload is not this protocol.
_MAX_TEXT = 1 << 20
# Linux's default limit for an unprivileged user. A larger pipe needs fewer reads per frame.
_PIPE_SIZE = 1 << 20
_KEPT_LINES = 60
# Some camera drivers need an orderly stop of their pipeline. The caller waits for it no longer than this.
_STOP_SECONDS = 0.4

# Sets the parent-death signal to SIGKILL, then becomes gst-launch. A hook between fork and exec (preexec_fn) is not
# safe in a process with threads.
_TIED_LAUNCH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class PipelineEnd(Exception):
    """The end of a pipeline: no more frames follow.

    Attributes:
        reason: text for messages.
        end_of_stream: True if the pipeline itself reported its end.
    """

    def __init__(self, reason: str, *, end_of_stream: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.end_of_stream = end_of_stream


@dataclass(frozen=True)
class Caps:
    """Properties that a pipeline declares for its frames.

    Attributes:
        size: (height, width), pixels.
        fps: frames per second; None if the pipeline does not declare a rate.
    """

    size: tuple[int, int]
    fps: float | None


class GstLaunch:
    """One run of a pipeline. Any thread may call ``interrupt``; only one thread at a time may call the others.

    Args:
        elements: words of the pipeline, without the sink.
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
        with contextlib.suppress(OSError, AttributeError):  # not Linux, or the user's limit for pipes is reached
            fcntl.fcntl(self._frames, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._open = True
        self._poll = select.poll()
        self._poll.register(self._frames, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        # This thread must live as long as the process, because the kernel ties the process to the starting thread.
        self._supervisor = threading.Thread(target=self._supervise, name="gst-launch", daemon=True)

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError, ValueError: if the process cannot be started.
        """
        self._supervisor.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def read_caps(self, seconds: float) -> Caps:
        """Wait for the first caps, for at most ``seconds``.

        Raises:
            PipelineEnd: if no caps arrive in time, or the pipeline ends.
        """
        deadline = time.monotonic() + seconds
        while self.caps is None:
            self._read_packet(deadline, seconds, FramePool())
        return self.caps

    def read(self, seconds: float, pool: FramePool) -> tuple[BgrImage, float | None]:
        """Wait for the next frame, for at most ``seconds``, and read it into a frame of the pool.

        Returns:
            The frame, uint8 [height, width, 3], BGR, which the caller owns, and its time in seconds, or None if the
            frame has no time.

        Raises:
            PipelineEnd: if no frame arrives in time, the pipeline ends or breaks, or ``interrupt`` is called.
        """
        deadline = time.monotonic() + seconds
        while (frame := self._read_packet(deadline, seconds, pool)) is None:
            pass
        return frame

    def interrupt(self) -> None:
        """End the read in progress and every later read at once."""
        with self._lock:
            if self._open:
                os.write(self._wake_end, b"x")

    def close(self) -> None:
        """End the process and its process group, and free all resources. Further calls do nothing."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        os.close(self._frames)  # a pipeline that writes now ends because of the broken pipe
        if self._supervisor.ident is None:
            os.close(self._write_end)
        if self._process is not None:
            self._end(self._process)
            self._supervisor.join(_STOP_SECONDS)
        os.close(self._wake)
        os.close(self._wake_end)

    def error_text(self) -> str:
        """Return the error that the process printed, in one line; empty if there is none."""
        return error_summary(list(self._lines))

    def _supervise(self) -> None:
        """Start the process and read all its output, because a full pipe would block the process."""
        try:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(self._write_end,),
                start_new_session=True,  # Ctrl-C must reach only this process
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
        # gst-launch joins its words with spaces again; after -- no word is an option.
        sink = f"! videoconvert ! video/x-raw,format=BGR ! gdppay ! fdsink fd={self._write_end} sync=false".split()
        command = [tool, "--quiet", "--", *self._elements, *sink]
        if sys.platform.startswith("linux") and sys.executable:
            return [sys.executable, "-I", "-S", "-c", _TIED_LAUNCH, str(os.getpid()), *command]
        return command

    def _end(self, process: subprocess.Popen[str]) -> None:
        for number in (signal.SIGINT, signal.SIGKILL):
            if process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            # Even SIGKILL does not end a process inside a driver that hangs; the process is then left to the kernel.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)

    def _read_packet(self, deadline: float, seconds: float, pool: FramePool) -> tuple[BgrImage, float | None] | None:
        """Read one packet. Return its frame and time, or None if the packet was not a frame."""
        header = bytearray(_HEADER)
        self._read_into(memoryview(header), deadline, seconds)
        kind = int.from_bytes(header[4:6], "big")
        length = int.from_bytes(header[6:10], "big")
        if header[0] != 1 or (kind != _BUFFER and length > _MAX_TEXT):
            raise PipelineEnd("the output is not the GStreamer Data Protocol")
        if kind != _BUFFER:
            text = bytearray(length)
            self._read_into(memoryview(text), deadline, seconds)
            if kind == _CAPS:
                self.caps = parse_caps(text.decode(errors="replace"))
            return None
        if self.caps is None:
            raise PipelineEnd("a frame arrived before its caps")
        height, width = self.caps.size
        stride = -(-3 * width // 4) * 4  # GStreamer aligns rows to 4 bytes
        if length != stride * height:
            raise PipelineEnd(f"a frame of {width}x{height} pixels has {length} bytes, expected {stride * height}")
        image = pool.take(height, width)
        has_gaps = stride > 3 * width
        data = np.empty((height, stride), np.uint8) if has_gaps else image
        self._read_into(data.data.cast("B"), deadline, seconds)
        if has_gaps:
            image.reshape(height, -1)[:] = data[:, : 3 * width]
        time_ns = int.from_bytes(header[10:18], "big")
        return image, None if time_ns == _NO_TIME else time_ns / 1e9

    def _read_into(self, view: memoryview, deadline: float, seconds: float) -> None:
        done = 0
        while done < len(view):
            ready = dict(self._poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))))
            if self._wake in ready:
                raise PipelineEnd("the pipeline was interrupted")
            if not ready:
                raise PipelineEnd(f"no frame arrived for {seconds:g} s")
            with contextlib.suppress(BlockingIOError):
                count = os.readv(self._frames, [view[done:]])
                if count == 0:
                    raise self._closed_pipe()
                done += count

    def _closed_pipe(self) -> PipelineEnd:
        """Return the reason for which the process closed its pipe. The process prints it and then ends."""
        assert self._process is not None
        self._supervisor.join(2 * _STOP_SECONDS)
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return PipelineEnd(self.error_text() or "the pipeline closed its pipe")
        if code == 0:
            return PipelineEnd("the pipeline ended", end_of_stream=True)
        return PipelineEnd(self.error_text() or f"{TOOL} ended with {_describe_exit(code)}")


def parse_caps(text: str) -> Caps:
    """Return the size and rate of the frames that raw video caps describe.

    Raises:
        PipelineEnd: if the format is not BGR, or the size is missing.

    Examples:
        >>> parse_caps("video/x-raw, format=(string)BGR, width=(int)64, height=(int)48, framerate=(fraction)30/1")
        Caps(size=(48, 64), fps=30.0)
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
    """Return the first error in gst-launch's output with its last line of debug information, or else the last lines.

    Examples:
        >>> error_summary(["WARNING: erroneous pipeline: syntax error"])
        'syntax error'
    """
    for index, line in enumerate(lines):
        if (parts := line.partition("erroneous pipeline: "))[1]:
            return parts[2]
        if match := re.match(r"ERROR: from element \S*[/:]([^/\s:]+): (.+)", line):
            rest = list(lines[index + 1 :])
            until = next((i for i, other in enumerate(rest) if other.startswith("ERROR:")), len(rest))
            details = [other for other in rest[:until] if other and not other.endswith(":")][-1:]
            return " ".join([f"{match[1]}: {match[2]}", *(f"({detail})" for detail in details)])
    return "; ".join(line for line in lines[-3:] if line)


def _describe_exit(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
