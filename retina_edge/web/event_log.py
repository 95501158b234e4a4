"""The last events, with what they looked like; so many and no more."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

MOST = 100


class EventLog:
    """Filled by the pipeline, read by the page."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._next = 0
        self._events: OrderedDict[int, tuple[dict[str, Any], bytes]] = OrderedDict()

    def add(self, event: dict[str, Any], thumbnail: bytes) -> int:
        """Keeps an event and its JPEG; forgets the oldest. Its number, counted from 0."""
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._events[number] = ({**event, "number": number}, thumbnail)
            while len(self._events) > self._most:
                self._events.popitem(last=False)
        return number

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Newest first."""
        with self._lock:
            return [event for event, _ in list(self._events.values())[::-1][:limit]]

    def thumbnail(self, number: int) -> bytes | None:
        """JPEG of an event that is still kept."""
        with self._lock:
            found = self._events.get(number)
        return found[1] if found else None
