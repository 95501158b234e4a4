"""The last hour of a stream, minute by minute: how many events it had, and how long it was offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from retina_edge.pipeline.stream import State
from retina_edge.system.timestamps import utc_iso
from retina_edge.web.event_log import MINUTES


@dataclass(frozen=True)
class Minute:
    """One minute of a stream.

    Attributes:
        time: start of the minute, UTC.
        events: number of events.
        offline: seconds for which the stream delivered no frames, because it was connecting, offline or had ended.
    """

    time: str
    events: int
    offline: float


def timeline(changes: Iterable[tuple[float, State]], events: Mapping[int, int], now: float) -> list[Minute]:
    """Return the minutes of the last hour, oldest first, from the one in which the stream started.

    Args:
        changes: time in seconds since 1970 and new state of each change of the state, oldest first.
        events: number of events by minute since 1970.
        now: the current time, seconds since 1970.

    Examples:
        >>> changes = [(120.0, State.CONNECTING), (126.0, State.ONLINE)]
        >>> [(minute.time[11:16], minute.events, minute.offline) for minute in timeline(changes, {3: 2}, now=190.0)]
        [('00:02', 0, 6.0), ('00:03', 2, 0.0)]
    """
    spans = list(changes)
    if not spans:
        return []
    last = int(now // 60)
    first = max(int(spans[0][0] // 60), last - MINUTES + 1)
    ends = [*(moment for moment, _ in spans[1:]), now]
    offline = dict.fromkeys(range(first, last + 1), 0.0)
    for (start, state), end in zip(spans, ends, strict=True):
        if state is not State.ONLINE:
            for minute in range(max(first, int(start // 60)), min(last, int(end // 60)) + 1):
                offline[minute] += max(0.0, min(end, 60 * minute + 60) - max(start, 60 * minute))
    return [
        Minute(utc_iso(datetime.fromtimestamp(60 * minute, timezone.utc)), events.get(minute, 0), round(seconds, 1))
        for minute, seconds in offline.items()
    ]
