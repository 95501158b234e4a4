"""One thread a stream that keeps its slot filled: opens the source, reads it, and opens it again when it is lost."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from engines.errors import SourceError
from retina_edge.pipeline.stream import State, Stream
from retina_edge.pipeline.worker import Worker
from retina_edge.sources.frames import Source

# Between attempts, seconds: doubled from the first to the last.
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
# A source that gave frames for so long was well, and what follows is a new failure.
WELL_AFTER = 5.0
# While the machine behind an address does not answer, how often it is knocked at, and how long that may take, seconds.
KNOCK_EVERY, KNOCK_TIMEOUT = 0.5, 0.5
PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}

logger = logging.getLogger(__name__)


class Capture:
    """The thread of one stream.

    Args:
        stream: whose slot it fills.
        on_failure: told of an error that no reopening mends: a bug, not a lost camera.
        on_end: called when it ends, in its thread.
        keep_trying: a live stream that cannot be opened is tried again and again; else only one that gave a frame once,
            and the first failure is an error of the stream, for its owner to tell.
    """

    def __init__(
        self,
        stream: Stream,
        on_failure: Callable[[BaseException], None],
        *,
        on_end: Callable[[], None] = lambda: None,
        keep_trying: bool = True,
    ) -> None:
        self.stream = stream
        self._keep_trying, self._on_end = keep_trying, on_end
        self._stop = threading.Event()
        self._source: Source | None = None
        self._address = _address(stream.source)
        # Seconds from the first frame to the last of the last opening.
        self._well_for = 0.0
        self._worker = Worker(f"capture {stream.name}", self._run, on_failure)

    def start(self) -> None:
        """Begins to read."""
        self.stream.started = True
        self._worker.start()

    def stop(self) -> None:
        """Asks it to end; ``wait`` returns when it has."""
        self._stop.set()
        self.stream.slot.close()
        if (source := self._source) is not None:
            source.interrupt()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds; a camera that hangs in its driver may not."""
        return self._worker.wait(seconds)

    def _run(self) -> None:
        try:
            self._read_for_ever()
        finally:
            self.stream.state = State.ENDED
            self.stream.slot.close()
            self._on_end()

    def _read_for_ever(self) -> None:
        """Of a file until it ends, of a live stream until it is told to."""
        stream, wait = self.stream, FIRST_WAIT
        while not self._stop.is_set():
            try:
                self._read()
                lost = f"{stream.source}: gave no more frames"
            except SourceError as error:
                if self._stop.is_set():  # because of that
                    return
                lost = str(error)
                if not stream.live or not (self._keep_trying or stream.captured):
                    stream.error = lost
                    stream.errors.append(lost)
                    if self._keep_trying:
                        logger.error("%s", lost)
                    return
            if not stream.live or self._stop.is_set() or stream.slot.closed:
                return
            if stream.state is not State.OFFLINE:
                logger.warning("%s", lost)
            stream.error, stream.state = lost, State.OFFLINE
            if self._well_for > WELL_AFTER:
                wait = FIRST_WAIT
            self._pause(wait)
            wait = min(2 * wait, LONGEST_WAIT)
            stream.reconnects += not self._stop.is_set()

    def _read(self) -> None:
        """One opening, to its end."""
        stream = self.stream
        if stream.state is not State.OFFLINE:
            stream.state = State.CONNECTING
        self._well_for = 0.0
        source = self._source = stream.open()
        if self._stop.is_set():  # it may have been asked for before there was something to interrupt
            return
        with source:
            stream.info = source.info
            if stream.live and not source.live and not stream.captured:
                # A file behind an address: it shows only now that it is one.
                stream.live, stream.slot.keeps_all = False, True
            began, first = time.perf_counter(), None
            for frame in source:
                first = frame.captured if first is None else first
                self._well_for = frame.captured - first
                stream.read_seconds += time.perf_counter() - began
                if self._stop.is_set() or not stream.slot.put(frame):
                    return
                stream.captured += 1
                if stream.state is State.OFFLINE:
                    logger.warning("%s: back again", stream.source)
                stream.state = State.ONLINE
                began = time.perf_counter()
            if stream.live and source.warnings:
                raise SourceError(source.warnings[-1])
            if not stream.live:
                stream.errors += source.errors
                stream.warnings += source.warnings
                for text in [*source.errors, *source.warnings] if self._keep_trying else []:
                    logger.warning("%s", text)
            stream.error = "; ".join([*source.errors, *source.warnings])

    def _pause(self, seconds: float) -> None:
        """Waits; where nobody answers at the address, only until somebody does."""
        address = self._address
        if address is None or _answers(address):
            self._stop.wait(seconds)
            return
        end = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < end and not self._stop.wait(KNOCK_EVERY):
            if _answers(address):
                return


def _address(name: str) -> tuple[str, int] | None:
    """Host and port of a stream's URL without credentials; None where it has none, or TCP is not what it speaks."""
    try:
        url = urlsplit(name)
        port = (url.port or PORTS[url.scheme]) if url.scheme in PORTS else None
    except ValueError:
        return None
    return (url.hostname, port) if url.hostname and port and "*" not in url.hostname else None


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, KNOCK_TIMEOUT).close()
    except (OSError, ValueError):  # ValueError: a name that cannot be one
        return False
    return True
