"""One stream of several: what it is called, where its frames come from, what has become of them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from retina_edge.pipeline.slots import Slot
from retina_edge.printable import printable
from retina_edge.sinks.base import Result
from retina_edge.sources.frames import Source, SourceInfo

# Of the newest results, how many rate and latency are taken from.
WINDOW = 300
# Rates are of the last seconds, so that a stream that stands still shows 0.
RATE_SECONDS = 5.0


class State(Enum):
    """Of a stream."""

    CONNECTING = "connecting"
    ONLINE = "online"
    OFFLINE = "offline"
    ENDED = "ended"


@dataclass(frozen=True)
class StreamStatus:
    """What can be told of a stream at one moment; nothing in it is secret.

    Attributes:
        name: of the stream.
        source: where its frames come from, without credentials.
        live: whether the newest frame wins.
        state: connecting, online, offline or ended.
        error: what is wrong, or was wrong last; empty where nothing was.
        height, width: of its newest frame, pixels; None before there is one.
        captured: frames read.
        detected: frames with a result.
        dropped: frames of a live stream that a newer one replaced before the detector was free.
        expired: frames that were older than ``max_age`` when their turn came, or their result was there.
        failed: frames that the detector raised on.
        reconnects: how often it was tried to open it again.
        fps: results a second.
        latency_p50, latency_p95: milliseconds from capture to result; None before there is one.
        objects: in the newest result, by class.
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
    """One source among several, with the counts that threads keep of it.

    Attributes:
        name: unique among the streams of a run; stands in results, on pages, in metrics.
        open: makes its source, anew for each attempt.
        source: for people, without credentials.
        live: the newest frame wins, and it is reopened when it ends; else every frame counts, and it ends. Of an
            address it is a guess until it is open.
        slot: where its frames wait.
        info: of its source, once that is open.
        errors: what could not be read of a file, or at all; one line each.
        warnings: what is odd in a file, one line each.
        objects: detections in all results.
        started: whether its turn has come.
        read_seconds: that its thread spent waiting for frames, decoding included.
    """

    name: str
    open: Callable[[], Source]
    source: str
    live: bool
    slot: Slot
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
    _done: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @classmethod
    def of(
        cls,
        name: str,
        open_source: Callable[[], Source],
        ready: threading.Condition,
        *,
        max_frames: int | None = None,
    ) -> Stream:
        """A stream whose slot fits its source: live or not."""
        source = open_source()
        slot = Slot(ready, keeps_all=not source.live, limit=max_frames)
        return cls(name, open_source, source.name, source.live, slot)

    @property
    def over(self) -> bool:
        """Whether no more results come. With the slot's condition held, in the thread that hands results on."""
        return self.slot.ended and self.slot.taken == self.detected + self.failed + self.expired

    def finish(self, result: Result, seconds: float) -> None:
        """Takes a result, and its age in seconds: counts it, and keeps the newest."""
        with self._lock:
            self.latest = result
            self.detected += 1
            self.objects += len(result.detections)
            self._done.append((time.monotonic(), seconds))

    def status(self) -> StreamStatus:
        """As it is now."""
        with self._lock:
            done, latest = list(self._done), self.latest
        ages = sorted(1000 * seconds for _, seconds in done)
        now = time.monotonic()
        recent = [moment for moment, _ in done if now - moment <= RATE_SECONDS]
        span = max(now - recent[0], 1e-3) if recent else 0.0
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
            dropped=self.slot.dropped,
            expired=self.expired,
            failed=self.failed,
            reconnects=self.reconnects,
            fps=round((len(recent) - 1) / span, 2) if len(recent) > 1 else 0.0,
            latency_p50=_rank(ages, 0.5),
            latency_p95=_rank(ages, 0.95),
            objects=dict(Counter(latest.detections.names)) if latest and self.state is State.ONLINE else {},
        )


def _rank(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None
