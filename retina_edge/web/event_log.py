"""The latest events with thumbnails of their objects, in a log of bounded size, and their number in each minute."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.system.printable import printable
from retina_edge.tracking.events import Event
from retina_edge.web.preview import thumbnail

# Events that are kept, of all streams together: with thumbnails, some 6 MB.
MAX_EVENTS = 1000
# Minutes whose events are counted.
MINUTES = 60


class EventLog:
    """A log of the latest events, which the pipeline fills and the web server reads. Thread-safe.

    Args:
        capacity: largest number of events that are kept.
    """

    def __init__(self, capacity: int = MAX_EVENTS) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._next = 0
        self._events: OrderedDict[int, tuple[Event, dict[str, Any], bytes]] = OrderedDict()
        # Number of events by minute since 1970, of each stream.
        self._minutes: dict[str, Counter[int]] = {}

    def add(self, event: Event, image: npt.NDArray[np.uint8]) -> None:
        """Add an event with a thumbnail of its object, and discard the oldest event if the log is full.

        Args:
            event: the event; events are numbered from 0.
            image: frame of the event, uint8 [height, width, 3], BGR.
        """
        content = thumbnail(image, event.box)
        with self._lock:
            number, self._next = self._next, self._next + 1
            texts = {"class": printable(event.class_name), "text": printable(_text(event))}
            self._events[number] = (event, {**event.to_dict(), **texts, "number": number}, content)
            while len(self._events) > self._capacity:
                self._events.popitem(last=False)
            minutes = self._minutes.setdefault(event.stream, Counter())
            minutes[int(event.captured.timestamp() // 60)] += 1
            for old in sorted(minutes)[: -MINUTES - 1]:
                del minutes[old]

    def newest(
        self,
        limit: int,
        *,
        stream: str | None = None,
        class_name: str | None = None,
        region: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """Return the latest events as JSON objects, newest first.

        Args:
            limit: largest number of events.
            stream, class_name, region: name that the events have; None for all.
            since: time of capture of the earliest event; None for no limit.
            until: time before which the events were captured; None for no limit.
        """
        with self._lock:
            kept = list(self._events.values())
        found = (
            values
            for event, values, _ in reversed(kept)
            if stream in (None, event.stream)
            and class_name in (None, values["class"])
            and region in (None, event.region)
            and (since is None or event.captured >= since)
            and (until is None or event.captured < until)
        )
        return [values for values, _ in zip(found, range(limit), strict=False)]

    def per_minute(self, stream: str) -> dict[int, int]:
        """Return the number of events of a stream by minute since 1970; minutes without events are left out."""
        with self._lock:
            return dict(self._minutes.get(stream, {}))

    def thumbnail(self, number: int) -> bytes | None:
        """Return the thumbnail of an event as JPEG; None if the event is no longer kept or does not exist."""
        with self._lock:
            entry = self._events.get(number)
        return entry[2] if entry else None


def _text(event: Event) -> str:
    """Describe an event in one line."""
    name = f"{event.class_name} {event.track}"
    if event.dwell is not None and event.kind == "dwelled":
        return f"{event.stream}: {name} dwelled in {event.region}, {event.dwell:.0f} s"
    return f"{event.stream}: {name} {event.kind} {event.region}" + (f", {event.direction}" if event.direction else "")
