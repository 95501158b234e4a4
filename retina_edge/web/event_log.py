"""The latest events with thumbnails of their objects, in a log of bounded size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.system.printable import printable
from retina_edge.tracking.events import Event
from retina_edge.web.preview import thumbnail

MAX_EVENTS = 100


class EventLog:
    """A log of the latest events, which the pipeline fills and the web server reads. Thread-safe.

    Args:
        capacity: largest number of events that are kept.
    """

    def __init__(self, capacity: int = MAX_EVENTS) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._next = 0
        self._events: OrderedDict[int, tuple[dict[str, Any], bytes]] = OrderedDict()

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
            self._events[number] = ({**event.to_dict(), **texts, "number": number}, content)
            while len(self._events) > self._capacity:
                self._events.popitem(last=False)

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Return the latest events as JSON objects, newest first.

        Args:
            limit: largest number of events.
        """
        with self._lock:
            return [event for event, _ in list(self._events.values())[::-1][:limit]]

    def thumbnail(self, number: int) -> bytes | None:
        """Return the thumbnail of an event as JPEG; None if the event is no longer kept or does not exist."""
        with self._lock:
            entry = self._events.get(number)
        return entry[1] if entry else None


def _text(event: Event) -> str:
    """Describe an event in one line."""
    name = f"{event.class_name} {event.track}"
    if event.dwell is not None and event.kind == "dwelled":
        return f"{event.stream}: {name} dwelled in {event.region}, {event.dwell:.0f} s"
    return f"{event.stream}: {name} {event.kind} {event.region}" + (f", {event.direction}" if event.direction else "")
