"""The capture thread of a stream: it reads the source into the mailbox, and reopens the source after a failure."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from engines.core.errors import SourceError
from engines.core.frame_pool import FramePool
from retina_edge.pipeline.stream import State, Stream
from retina_edge.sources.frames import Source
from retina_edge.system.worker import Worker

# Shortest and longest wait between two attempts, in seconds. The back-off doubles after each attempt.
MIN_BACKOFF, MAX_BACKOFF = 0.5, 30.0
# Seconds of frames after which the back-off is reset.
STABLE_SECONDS = 5.0
# Seconds between two TCP probes of a host that does not answer, and the timeout of each probe.
PROBE_INTERVAL, PROBE_TIMEOUT = 0.5, 0.5
# Ports of URLs that name none, by scheme.
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}

logger = logging.getLogger(__name__)


class Capture:
    """The capture thread of one stream.

    Args:
        stream: the stream to capture; the thread fills its mailbox.
        on_failure: called with an error that reopening cannot fix, such as a bug.
        on_end: called in the capture thread when it ends.
        pool: pool whose frames the sources fill; None for a pool of each source.
        keep_trying: True to retry forever to open a live stream, even if the first attempt fails. If False, only a
            stream that has delivered a frame is reopened, and an earlier failure is recorded in ``stream.errors``.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> from retina_edge.sources.stream_names import named_sources
        >>> stream = Stream.of("forest", named_sources([f"forest={FOREST}"])["forest"], threading.Condition())
        >>> capture = Capture(stream, on_failure=print)
        >>> capture.start()
        >>> capture.wait(seconds=10)
        True
        >>> stream.captured, stream.state
        (1, <State.ENDED: 'ended'>)
    """

    def __init__(
        self,
        stream: Stream,
        on_failure: Callable[[BaseException], None],
        *,
        on_end: Callable[[], None] = lambda: None,
        pool: FramePool | None = None,
        keep_trying: bool = True,
    ) -> None:
        self.stream = stream
        self._pool = pool
        self._keep_trying, self._on_end = keep_trying, on_end
        self._stop = threading.Event()
        self._source: Source | None = None
        self._address = _address(stream.source)
        # Seconds from the first to the last frame since the source was last opened.
        self._stable_for = 0.0
        self._worker = Worker(f"capture {stream.name}", self._run, on_failure)

    def start(self) -> None:
        """Start the thread."""
        self.stream.started = True
        self._worker.start()

    def stop(self) -> None:
        """Ask the thread to end. Call ``wait`` to wait for its end."""
        self._stop.set()
        self.stream.mailbox.close()
        if (source := self._source) is not None:
            source.interrupt()

    def wait(self, seconds: float) -> bool:
        """Wait for the thread and return True if it has ended. A thread may hang in the driver of its camera."""
        return self._worker.wait(seconds)

    def _run(self) -> None:
        try:
            self._read_until_end()
        finally:
            self.stream.set_state(State.ENDED)
            self.stream.mailbox.close()
            self._on_end()

    def _read_until_end(self) -> None:
        """Read a file until it ends, or a live stream until ``stop``."""
        stream, wait = self.stream, MIN_BACKOFF
        while not self._stop.is_set():
            try:
                self._read()
                reason = f"{stream.source}: no more frames"
            except SourceError as error:
                if self._stop.is_set():  # the stop interrupted the source
                    return
                reason = str(error)
                if not stream.live or not (self._keep_trying or stream.captured):
                    stream.error = reason
                    stream.errors.append(reason)
                    if self._keep_trying:
                        logger.error("%s", reason)
                    return
            if not stream.live or self._stop.is_set() or stream.mailbox.closed:
                return
            if stream.state is not State.OFFLINE:
                logger.warning("%s", reason)
            stream.error = reason
            stream.set_state(State.OFFLINE)
            if self._stable_for > STABLE_SECONDS:
                wait = MIN_BACKOFF
            self._pause(wait)
            wait = min(2 * wait, MAX_BACKOFF)
            stream.reconnects += not self._stop.is_set()

    def _read(self) -> None:
        """Open the source once and read it to its end."""
        stream = self.stream
        if stream.state is not State.OFFLINE:
            stream.set_state(State.CONNECTING)
        self._stable_for = 0.0
        source = self._source = stream.open()
        source.pool = self._pool or source.pool
        if self._stop.is_set():  # ``stop`` was called before there was a source to interrupt
            return
        with source:
            stream.info = source.info
            if stream.live and not source.live and not stream.captured:
                # Only the open source shows that this URL is a file.
                stream.live, stream.mailbox.keep_all = False, True
            began, first = time.perf_counter(), None
            for frame in source:
                first = frame.captured if first is None else first
                self._stable_for = frame.captured - first
                stream.read_seconds += time.perf_counter() - began
                if self._stop.is_set() or not stream.mailbox.put(frame):
                    return
                stream.captured += 1
                if stream.state is State.OFFLINE:
                    logger.warning("%s: online again", stream.source)
                stream.set_state(State.ONLINE)
                began = time.perf_counter()
            stream.info = source.info  # with the duration of a file
            if stream.live and source.warnings:
                raise SourceError(source.warnings[-1])
            if not stream.live:
                stream.errors += source.errors
                stream.warnings += source.warnings
                for text in [*source.errors, *source.warnings] if self._keep_trying else []:
                    logger.warning("%s", text)
            stream.error = "; ".join([*source.errors, *source.warnings])

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; if the host of a URL is down, wait until it accepts connections again."""
        address = self._address
        if address is None or _accepts_connections(address):
            self._stop.wait(seconds)
            return
        end = time.monotonic() + MAX_BACKOFF
        while time.monotonic() < end and not self._stop.wait(PROBE_INTERVAL):
            if _accepts_connections(address):
                return


def _address(name: str) -> tuple[str, int] | None:
    """Return host and port of a redacted URL; None if it has no readable host, or a scheme without a known port."""
    try:
        url = urlsplit(name)
        port = (url.port or DEFAULT_PORTS[url.scheme]) if url.scheme in DEFAULT_PORTS else None
    except ValueError:
        return None
    return (url.hostname, port) if url.hostname and port and "*" not in url.hostname else None


def _accepts_connections(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, PROBE_TIMEOUT).close()
    except (OSError, ValueError):  # ValueError: an invalid host name
        return False
    return True
