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
    """Puts events into the spools of their receivers, in a background thread, because a spool waits for its disk.

    Args:
        deliveries: deliveries that get every event, one for each receiver.

    Attributes:
        dropped: events lost because the queue was full, or because a disk did not answer until the end.
    """

    def __init__(self, deliveries: Sequence[DeliveryWorker]) -> None:
        self._deliveries = list(deliveries)
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self.dropped = 0

    def send(self, event: Event) -> None:
        """Queue an event without waiting. Its new ``id`` lets receivers recognize a repeated event."""
        if not self._deliveries:
            return
        if self._events.qsize() >= MAX_WAITING_EVENTS:
            self.dropped += 1
        else:
            self._events.put({"id": uuid.uuid4().hex, **event.to_dict()})

    def __enter__(self) -> EventDispatcher:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._events.put(None)
        self._thread.join(SPOOL_TIMEOUT)
        if self._thread.is_alive():
            self._given_up = True
            # The None in the queue stands for the event that the thread is writing now.
            lost = self._events.qsize()
            self.dropped += lost
            logger.error("events: the disk of the spool does not answer; %d events are lost", lost)

    def _run(self) -> None:
        while (event := self._events.get()) is not None and not self._given_up:
            for delivery in self._deliveries:
                try:
                    delivery.send(event)
                # A spool raises the error of its disk only once and keeps the event in memory.
                except Exception as error:
                    logger.warning("%s", error)
