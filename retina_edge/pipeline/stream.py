"""One stream of a run: its name, its source, its counters."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from retina_edge.pipeline.mailbox import Mailbox
from retina_edge.pipeline.result import Result
from retina_edge.sources.frames import Source, SourceInfo
from retina_edge.system.printable import printable

# Number of newest results that latency is computed from.
WINDOW = 300
# Rates are computed over the last seconds, so that a stream that stands still shows 0.
RATE_SECONDS = 5.0


class State(Enum):
    """State of a stream."""

    CONNECTING = "connecting"
    ONLINE = "online"
    OFFLINE = "offline"
    ENDED = "ended"


@dataclass(frozen=True)
class StreamStatus:
    """Status of a stream at one moment; contains no secrets.

    Attributes:
        name: name of the stream.
        source: the source, without credentials.
        live: True if frames arrive in real time, so that the newest one wins.
        state: ``connecting``, ``online``, ``offline`` or ``ended``.
        error: the current or the latest error; empty if there was none.
        height, width: size of the newest frame, pixels; None before the first one.
        captured: frames read from the source.
        detected: frames with a result.
        dropped: frames of a live stream that were replaced by a newer one before the detector was free.
        expired: frames or results that were older than ``max_age``.
        failed: frames that the detector failed on.
        reconnects: attempts to reopen the source.
        fps: results per second.
        latency_p50, latency_p95: milliseconds from capture to result; None before the first result.
        objects: objects in the newest result, by class.
    """

    name: str
    source: str
    live: bool
    state: str
    error: str
    height: int | None
    width: int | None
    captured: int
    detected: int
    dropped: int
    expired: int
    failed: int
    reconnects: int
    fps: float
    latency_p50: float | None
    latency_p95: float | None
    objects: dict[str, int]


@dataclass(eq=False)
class Stream:
    """One source among several, with the counters that the threads of a pipeline update.

    Attributes:
        name: unique name among the streams of a run; used in results, on the page and in metrics.
        open: makes a new source for each attempt to open it.
        source: the source for display, without credentials.
        live: True if the newest frame wins and the source is reopened when it ends. False if every frame counts and the
            stream ends with its source. For a URL this is a guess until the source is open.
        mailbox: where the stream's frames wait for the detector.
        info: information from the source, once it is open.
        errors: what could not be read of a file, or that the source could not be opened; one line each.
        warnings: oddities of a file, one line each.
        objects: number of detections in all results.
        started: True once the capture thread was started.
        read_seconds: seconds that the capture thread spent waiting for frames and decoding.
    """

    name: str
    open: Callable[[], Source]
    source: str
    live: bool
    mailbox: Mailbox
    state: State = State.CONNECTING
    error: str = ""
    info: SourceInfo = field(default_factory=SourceInfo)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    read_seconds: float = 0.0
    objects: int = 0
    started: bool = False
    captured: int = 0
    detected: int = 0
    expired: int = 0
    failed: int = 0
    reconnects: int = 0
    latest: Result | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @classmethod
    def of(
        cls,
        name: str,
        open_source: Callable[[], Source],
        changed: threading.Condition,
        *,
        max_frames: int | None = None,
    ) -> Stream:
        """Make a stream whose mailbox suits its source, live or not."""
        source = open_source()
        mailbox = Mailbox(changed, keep_all=not source.live, limit=max_frames)
        return cls(name, open_source, source.name, source.live, mailbox)

    @property
    def finished(self) -> bool:
        """True if no more results will come. Call it in the detector thread, with the mailbox's condition held."""
        return self.mailbox.ended and self.mailbox.taken == self.detected + self.failed + self.expired

    def record(self, result: Result, seconds: float) -> None:
        """Count a result and keep it as the newest.

        Args:
            result: the result.
            seconds: its age, from capture to now.
        """
        with self._lock:
            self.latest = result
            self.detected += 1
            self.objects += len(result.detections)
            self._recent.append((time.monotonic(), seconds))

    def status(self) -> StreamStatus:
        """Return the current status. Thread-safe."""
        with self._lock:
            recent, latest = list(self._recent), self.latest
        ages = sorted(1000 * seconds for _, seconds in recent)
        now = time.monotonic()
        moments = [moment for moment, _ in recent if now - moment <= RATE_SECONDS]
        span = max(now - moments[0], 1e-3) if moments else 0.0
        return StreamStatus(
            name=self.name,
            source=printable(self.source),
            live=self.live,
            state=self.state.value,
            error=printable(self.error),
            height=latest.frame.image.shape[0] if latest else None,
            width=latest.frame.image.shape[1] if latest else None,
            captured=self.captured,
            detected=self.detected,
            dropped=self.mailbox.dropped,
            expired=self.expired,
            failed=self.failed,
            reconnects=self.reconnects,
            fps=round((len(moments) - 1) / span, 2) if len(moments) > 1 else 0.0,
            latency_p50=_quantile(ages, 0.5),
            latency_p95=_quantile(ages, 0.95),
            objects=dict(Counter(latest.detections.names)) if latest and self.state is State.ONLINE else {},
        )


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None
