"""Puts events into the spools of their receivers, without holding up who has them."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from retina_edge.delivery.delivery import Delivery
from retina_edge.tracking.events import Event

# Events that wait for the spool's disk.
EVENTS_WAITING = 10_000
# Seconds that a disk has at the end.
PATIENCE = 5.0

logger = logging.getLogger(__name__)


class EventSender:
    """Puts events into the spools of their receivers, in a thread of its own: a spool waits for its disk.

    Attributes:
        dropped: events that found no room to wait, because no disk took them for long.
    """

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = list(deliveries)
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue(EVENTS_WAITING)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self.dropped = 0

    def send(self, event: Event) -> None:
        """Takes an event; never waits. Receivers that get one twice know it by its ``id``."""
        if not self._deliveries:
            return
        try:
            self._events.put_nowait({"id": uuid.uuid4().hex, **event.to_dict()})
        except queue.Full:
            self.dropped += 1

    def __enter__(self) -> EventSender:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(queue.Full):
            self._events.put(None, timeout=PATIENCE)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            logger.error("events: the disk of the spool does not answer; %d events are lost", self._events.qsize())

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            for delivery in self._deliveries:
                try:
                    delivery.send(event)
                except Exception as error:  # of a spool's disk it is said once, and the event waits in memory
                    logger.warning("%s", error)
