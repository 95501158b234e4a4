"""The last events, with what they looked like; so many and no more."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_edge.tracking.events import Event
from retina_edge.web.preview import thumbnail

MAX_EVENTS = 100


class EventLog:
    """Filled by the pipeline, read by the page."""

    def __init__(self, most: int = MAX_EVENTS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._next = 0
        self._events: OrderedDict[int, tuple[dict[str, Any], bytes]] = OrderedDict()

    def add(self, event: Event, image: npt.NDArray[np.uint8]) -> None:
        """Keeps an event, numbered from 0, and what its object looked like; forgets the oldest.

        Args:
            event: what happened.
            image: the frame, BGR uint8 [h, w, 3].
        """
        picture = thumbnail(image, event.box)
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._events[number] = ({**event.to_dict(), "text": _text(event), "number": number}, picture)
            while len(self._events) > self._most:
                self._events.popitem(last=False)

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        with self._lock:
            return [event for event, _ in list(self._events.values())[::-1][:limit]]

    def thumbnail(self, number: int) -> bytes | None:
        """JPEG of an event that is still kept."""
        with self._lock:
            found = self._events.get(number)
        return found[1] if found else None


def _text(event: Event) -> str:
    """For people."""
    what = f"{event.class_name} {event.track}"
    return f"{event.stream}: {what} {event.kind} {event.region}" + (f", {event.direction}" if event.direction else "")
