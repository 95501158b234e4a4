"""A stream of a run: its name, its source, its state and its counters."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from engines.core.option_checks import check_integer
from retina_edge.pipeline.mailbox import Mailbox
from retina_edge.pipeline.result import Result
from retina_edge.sources.frames import Source, SourceInfo
from retina_edge.system.printable import printable
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.tracker import Tracks

# Number of newest results that the latency is computed from.
LATENCY_RESULTS = 300
# Seconds that the rate is computed over: short, so that a stalled stream soon shows 0.
RATE_SECONDS = 5.0
# Number of newest changes of the state that are kept: more than an hour of a camera that is lost every five seconds. If
# it is lost sooner, the capture waits longer before it tries again.
STATE_CHANGES = 2048


class State(Enum):
    """The state of a stream."""

    CONNECTING = "connecting"
    ONLINE = "online"
    OFFLINE = "offline"
    ENDED = "ended"


@dataclass(frozen=True)
class RegionStatus:
    """The counts of a zone or line after the newest result.

    Attributes:
        name: name of the region.
        counts: number of objects by what they did: ``inside``, ``entered`` and ``left`` for a zone, and ``dwelled`` if
            it has a limit on the dwell time; ``in`` and ``out`` for a line.
        longest: longest dwell time so far of the objects that are in a zone, in seconds; None if there are none.
    """

    name: str
    counts: dict[str, int]
    longest: float | None


@dataclass(frozen=True)
class StreamStatus:
    """The status of a stream at one moment. It contains no credentials.

    Attributes:
        name: name of the stream.
        source: name of the source, without credentials.
        live: True if frames arrive in real time, so that the newest frame wins.
        state: ``connecting``, ``online``, ``offline`` or ``ended``.
        error: the current or the latest error; empty if there was none.
        height, width: size of the newest frame, pixels; None before the first frame.
        captured: frames read from the source.
        detected: frames with a result.
        dropped: frames of a live stream that a newer frame replaced before the detector was free.
        expired: frames and results that were dropped because they were older than ``max_age``.
        failed: frames that the detector failed on.
        reconnects: attempts to reopen the source.
        fps: results per second.
        latency_p50, latency_p95: milliseconds from capture to result; None before the first result.
        objects: objects in the newest result, by class.
        regions: counts of zones and lines after the newest result.
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
    regions: list[RegionStatus]


@dataclass(eq=False)
class Stream:
    """One source among several, with the counters that the threads of a pipeline update.

    Attributes:
        name: unique name among the streams of a run; used in results, on the page and in metrics.
        open: function that makes a new source; it is called for each attempt to open the stream.
        source: name of the source for display, without credentials.
        live: True if the newest frame wins and the source is reopened when it ends. False if every frame counts and the
            stream ends with its source. For a URL this is a guess until the source is open.
        mailbox: the buffer in which the stream's frames wait for the detector.
        info: properties of the source, once it is open.
        errors: a line for each part of a file that could not be read, or for a source that could not be opened.
        warnings: a line for each irregularity of a file.
        objects: number of detections in all results, by class.
        best_score: best score of all detections of the model, also of those below the score threshold; 0 for none.
        started: True once the capture thread has been started.
        read_seconds: seconds that the capture thread has spent waiting for frames and decoding them.
        latest: the newest result; None before the first one.
        changes: time by ``time.time`` and new state of each change of the state, oldest first; limited in number.
        state, error, captured, detected, expired, failed, reconnects: as in ``StreamStatus``.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> from retina_edge.sources.stream_names import named_sources
        >>> stream = Stream.of("forest", named_sources([f"forest={FOREST}"])["forest"], threading.Condition())
        >>> status = stream.status()
        >>> status.name, status.live, status.state, status.detected
        ('forest', False, 'connecting', 0)
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
    objects: Counter[str] = field(default_factory=Counter)
    best_score: float = 0.0
    started: bool = False
    captured: int = 0
    detected: int = 0
    expired: int = 0
    failed: int = 0
    reconnects: int = 0
    latest: Result | None = None
    changes: deque[tuple[float, State]] = field(default_factory=lambda: deque(maxlen=STATE_CHANGES))
    _tracked: bytearray | None = None  # a byte for each id, 1 if it has been in a result
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LATENCY_RESULTS))

    @classmethod
    def of(
        cls,
        name: str,
        open_source: Callable[[], Source],
        changed: threading.Condition,
        *,
        max_frames: int | None = None,
    ) -> Stream:
        """Make a stream, with a mailbox that suits its source, live or not.

        Args:
            name: unique name among the streams of a run.
            open_source: function that makes a new source.
            changed: condition that all mailboxes of a pipeline share.
            max_frames: number of frames after which the stream ends; None for all frames.

        Raises:
            ContractError: if ``max_frames`` is not an integer of at least 1.
        """
        if max_frames is not None:
            check_integer("max_frames", max_frames, 1)
        source = open_source()
        mailbox = Mailbox(changed, keep_all=not source.live, limit=max_frames)
        return cls(name, open_source, source.name, source.live, mailbox)

    @property
    def finished(self) -> bool:
        """True if no more results will come. Read it in the detector thread, with the mailbox's condition held."""
        return self.mailbox.ended and self.mailbox.taken == self.detected + self.failed + self.expired

    @property
    def duration(self) -> float | None:
        """Seconds from the first frame to the end of the last one, if a file was read and detected to its end."""
        return self.info.duration if self.mailbox.taken == self.captured else None

    def set_state(self, state: State) -> None:
        """Set the state, and remember when it changed."""
        if state is not self.state or not self.changes:
            self.changes.append((time.time(), state))
        self.state = state

    def record(self, result: Result, seconds: float, best_score: float) -> None:
        """Count a result and keep it as the newest result.

        Args:
            result: the result.
            seconds: age of the result, in seconds since capture.
            best_score: best score of all detections in the frame, also of those that are not in the result; 0 for none.
        """
        with self._lock:
            self.latest = result
            self.detected += 1
            self.objects.update(result.detections.names)
            self.best_score = max(self.best_score, best_score)
            if result.tracks is not None:
                self._mark(result.tracks)
            self._recent.append((time.monotonic(), seconds))

    @property
    def tracks(self) -> int | None:
        """Number of tracks in all results; None without tracking."""
        return None if self._tracked is None else sum(self._tracked)

    def _mark(self, tracks: Tracks) -> None:
        """Remember which tracks have been in a result: not every id that the tracker gives gets into one."""
        marks = self._tracked = bytearray() if self._tracked is None else self._tracked
        marks.extend(bytes(max(0, int(tracks.max(initial=-1)) + 1 - len(marks))))
        for track in tracks[tracks >= 0].tolist():
            marks[track] = 1

    def status(self) -> StreamStatus:
        """Return the current status. Thread-safe."""
        with self._lock:
            recent, latest = list(self._recent), self.latest
        ages = sorted(1000 * seconds for _, seconds in recent)
        now = time.monotonic()
        times = [moment for moment, _ in recent if now - moment <= RATE_SECONDS]
        span = max(now - times[0], 1e-3) if times else 0.0
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
            fps=round((len(times) - 1) / span, 2) if len(times) > 1 else 0.0,
            latency_p50=_quantile(ages, 0.5),
            latency_p95=_quantile(ages, 0.95),
            objects=dict(Counter(map(printable, latest.detections.names)))
            if latest and self.state is State.ONLINE
            else {},
            regions=[_region_status(tally) for tally in latest.tallies] if latest else [],
        )


def _region_status(tally: Tally) -> RegionStatus:
    longest = max((visit.seconds for visit in tally.visits), default=None)
    return RegionStatus(tally.region.name, tally.counts, None if longest is None else round(longest, 1))


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None
