"""Puts events into the spools of their receivers, without holding up who has them."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Sequence
from typing import Any

from retina_edge.delivery.delivery_worker import DeliveryWorker
from retina_edge.tracking.events import Event

# Events that wait for the spool's disk.
MAX_WAITING_EVENTS = 10_000
# Seconds that a disk has at the end.
SPOOL_TIMEOUT = 5.0

logger = logging.getLogger(__name__)


class EventDispatcher:
    """Puts events into the spools of their receivers, in a thread of its own: a spool waits for its disk.

    Attributes:
        dropped: events that found no room to wait, because no disk took them for long, or not until the end.
    """

    def __init__(self, deliveries: Sequence[DeliveryWorker]) -> None:
        self._deliveries = list(deliveries)
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self.dropped = 0

    def send(self, event: Event) -> None:
        """Takes an event; never waits. Receivers that get one twice know it by its ``id``."""
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
            left = self._events.qsize()  # the end's own mark stands for the event that the disk has now
            self.dropped += left
            logger.error("events: the disk of the spool does not answer; %d events are lost", left)

    def _run(self) -> None:
        while (event := self._events.get()) is not None and not self._given_up:
            for delivery in self._deliveries:
                try:
                    delivery.send(event)
                except Exception as error:  # of a spool's disk it is said once, and the event waits in memory
                    logger.warning("%s", error)
