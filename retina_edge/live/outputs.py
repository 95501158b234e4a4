"""Where results of several streams go beside the page: files, receivers of events, none of which is waited for."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from engines.errors import RetinaEdgeError
from retina_edge.streams.background import BackgroundSink, Policy
from retina_edge.streams.csv_sink import CsvSink
from retina_edge.streams.delivery import Delivery, deliver_to
from retina_edge.streams.events import Event
from retina_edge.streams.frames import captured_at
from retina_edge.streams.sinks import Result, Sink
from retina_edge.streams.sources import redact
from retina_edge.streams.text_sinks import JsonlSink

# Results that wait for a file, each with its frame; events that wait for the spool's disk.
WAITING, EVENTS_WAITING = 64, 10_000
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


class Outputs:
    """Takes every result of every stream.

    Args:
        sinks: each in a thread of its own already.
        events: who sends them on.
    """

    def __init__(self, sinks: Sequence[Sink], events: EventSender) -> None:
        self._sinks, self.events = list(sinks), events

    def write(self, result: Result) -> None:
        """Hands one on, to the sinks that still work."""
        for event in result.events:
            self.events.send(event)
        for sink in list(self._sinks):
            try:
                sink.write(result)
            except Exception as error:
                # A full disk ends this file, and neither the page nor the other streams.
                logger.error("%s; nothing more is written there", error)
                self._sinks.remove(sink)


@contextmanager
def open_outputs(
    *, jsonl: Path | None, csv: Path | None, receivers: Sequence[str], spool: Path, live: bool
) -> Iterator[Outputs]:
    """Files and deliveries, open within the block.

    Args:
        jsonl: for results as JSON lines.
        csv: for detections as a table.
        receivers: addresses of events, ``mqtt://`` or ``https://``.
        spool: folder for events that wait, a file for each receiver.
        live: whether a file that is slow loses results, oldest first, instead of holding up the streams.

    Raises:
        OSError: a file cannot be opened.
        RetinaEdgeError: an address that cannot be used, or one twice.
    """
    if len(set(receivers)) != len(receivers):
        raise RetinaEdgeError("--events: expected each address once")
    policy: Policy = "drop oldest" if live else "wait"
    with ExitStack() as stack:
        deliveries = [
            stack.enter_context(deliver_to(address, spool / f"{_file_name(address)}.sqlite")) for address in receivers
        ]
        events = stack.enter_context(EventSender(deliveries))
        files: list[Sink] = [] if jsonl is None else [JsonlSink(jsonl)]
        if csv is not None:
            files.append(CsvSink(csv, captured=lambda result: captured_at(result.frame), tracks=_tracks))
        sinks = [stack.enter_context(BackgroundSink(sink, capacity=WAITING, policy=policy)) for sink in files]
        yield Outputs(sinks, events)


def default_spool() -> Path:
    """``retina_edge/events`` in systemd's state folder of the service, or the user's."""
    state = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "retina_edge" / "events"


def _file_name(address: str) -> str:
    """The same for an address whatever its password."""
    return hashlib.sha256(redact(address).encode()).hexdigest()[:16]


def _tracks(result: Result) -> list[int | None]:
    if result.tracks is None:
        return [None] * len(result.detections)
    return [track if track > 0 else None for track in result.tracks.tolist()]
