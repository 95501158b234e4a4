"""Where results of several streams go beside the page: files, receivers of events, none of which is waited for."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engines.errors import RetinaEdgeError
from retina_edge.delivery.delivery import deliver_to
from retina_edge.delivery.sender import EventSender
from retina_edge.sinks.background import BackgroundSink, Policy
from retina_edge.sinks.base import Result, Sink
from retina_edge.sinks.table import CsvSink
from retina_edge.sinks.text import JsonlSink
from retina_edge.sources.frames import captured_at
from retina_edge.sources.video import redact

# Results that wait for a file, each with its frame.
WAITING = 64

logger = logging.getLogger(__name__)


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
