"""A dispatcher that puts events into the spools of their receivers without holding up the caller."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Sequence
from typing import Any

from retina_edge.delivery.delivery_worker import DeliveryWorker
from retina_edge.tracking.events import Event

# Events that may wait in memory for the disk of a spool.
MAX_WAITING_EVENTS = 10_000
# Seconds that the disks have at the end for the waiting events.
SPOOL_TIMEOUT = 5.0

logger = logging.getLogger(__name__)


class EventDispatcher:
    """A dispatcher that puts events into spools in a background thread, because a spool waits for its disk.

    Args:
        deliveries: deliveries that get every event, one for each receiver.

    Attributes:
        dropped: events lost because the queue was full, or because a disk did not answer before the timeout at the end.
            An event that is still being written at that time counts as lost until it is written.
    """

    def __init__(self, deliveries: Sequence[DeliveryWorker]) -> None:
        self._deliveries = list(deliveries)
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        # Events that were queued, and events that were passed to all deliveries.
        self._queued = self._written = 0
        self._given_up = False
        # Protects ``_written``, ``_given_up`` and, once given up, ``dropped``.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self.dropped = 0

    def send(self, event: Event) -> None:
        """Queue an event without waiting. The event gets an ``id``, by which receivers recognize a repeated event."""
        if not self._deliveries:
            return
        if self._events.qsize() >= MAX_WAITING_EVENTS:
            self.dropped += 1
        else:
            self._queued += 1
            self._events.put({"id": uuid.uuid4().hex, **event.to_dict()})

    def __enter__(self) -> EventDispatcher:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._events.put(None)
        self._thread.join(SPOOL_TIMEOUT)
        with self._lock:
            self._given_up = True
            lost = self._queued - self._written
            self.dropped += lost
        if lost:
            logger.error("events: the disk of the spool does not answer; up to %d events are lost", lost)

    def _run(self) -> None:
        while (event := self._events.get()) is not None and not self._given_up:
            for delivery in self._deliveries:
                try:
                    delivery.send(event)
                # A spool raises the error of its disk only once and keeps the event in memory.
                except Exception as error:
                    logger.warning("%s", error)
            with self._lock:
                self._written += 1
                if self._given_up:  # the event counts as lost, but has been written after all
                    self.dropped -= 1
