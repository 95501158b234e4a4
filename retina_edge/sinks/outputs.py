"""Where results of several streams go beside the page: files, receivers of events, none of which is waited for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Literal

from engines.core.errors import RetinaEdgeError
from retina_edge.delivery.delivery_worker import DeliveryWorker
from retina_edge.delivery.event_dispatcher import EventDispatcher
from retina_edge.delivery.receivers import deliver_to
from retina_edge.pipeline.result import Result
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.csv_sink import CsvSink
from retina_edge.sinks.per_stream_sink import PerStreamSink
from retina_edge.sinks.retrying_sink import RetryingSink
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.text_sink import JsonlSink, TextFileSink
from retina_edge.system.folders import event_spool
from retina_edge.system.printable import printable
from retina_edge.system.redaction import redact

# Results that wait for a file, each with its frame.
QUEUE_CAPACITY = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputStatus:
    """What has become of the results or events for one output; nothing in it is secret.

    Attributes:
        name: the file, or the receiver's address without credentials; unique among the outputs.
        kind: a file of results, or a receiver of events.
        state: "ok"; "waiting" for a slow disk, or a receiver that is away; "lost": it works, and some are gone for
            good; "failed": results are lost at present, of one stream or of all.
        waiting: results that wait for the file, or events in the spool.
        done: results written, or events that the receiver confirmed, since the start.
        dropped: oldest ones that made room for newer ones.
        lost: results that came after the file failed, or with its failure; events that the receiver refused.
        error: what is wrong, or was wrong last; empty where nothing was.
    """

    name: str
    kind: Literal["file", "events"]
    state: Literal["ok", "waiting", "lost", "failed"]
    waiting: int
    done: int
    dropped: int
    lost: int
    error: str

    @property
    def broke_its_promise(self) -> bool:
        """Whether more is gone than a slow file may drop of a live stream."""
        return self.state == "failed" or self.lost > 0 or (self.kind == "events" and self.dropped > 0)

    def __str__(self) -> str:
        gone = self.dropped + self.lost
        what = ("result" if self.kind == "file" else "event") + ("s" if gone != 1 else "")
        text = f"{self.name}: {f'{gone} {what} lost' if gone else 'incomplete'}"
        return f"{text} ({self.error})" if self.error else text


class Outputs:
    """Takes every result of every stream.

    Args:
        files: by what they are called, each in a thread of its own already.
        receivers: of events, by what they are called.
        events: who sends them on to the receivers.
    """

    def __init__(
        self, files: Mapping[str, BackgroundSink], receivers: Mapping[str, DeliveryWorker], events: EventDispatcher
    ) -> None:
        self._files, self._receivers, self._events = files, receivers, events

    def write(self, result: Result) -> None:
        """Hands one on; a file that has failed counts it."""
        for event in result.events:
            self._events.send(event)
        for sink in self._files.values():
            sink.write(result)

    def end(self, stream: str) -> None:
        """No more results of this stream come."""
        for sink in self._files.values():
            sink.end(stream)

    @property
    def seconds(self) -> float:
        """That the files have taken."""
        return sum(sink.seconds for sink in self._files.values())

    @property
    def written(self) -> list[Path]:
        """Files and folders that are whole; after the end."""
        return list(dict.fromkeys(path for sink in self._files.values() for path in sink.written))

    def status(self) -> list[OutputStatus]:
        """Of each output, at this moment; from any thread, also after the end."""
        return [
            *(_of_file(name, sink) for name, sink in self._files.items()),
            *(_of_receiver(name, receiver, self._events.dropped) for name, receiver in self._receivers.items()),
        ]

    @property
    def failed(self) -> list[OutputStatus]:
        """Those that lost what was promised."""
        return [status for status in self.status() if status.broke_its_promise]


@contextmanager
def open_outputs(
    *,
    jsonl: Path | None = None,
    csv: Path | None = None,
    save: Path | None = None,
    open_sink: Callable[[str], Sink] | None = None,
    receivers: Sequence[str] = (),
    spool: Path | None = None,
    strict: bool,
) -> Iterator[Outputs]:
    """Files and deliveries, open within the block.

    Args:
        jsonl: for results as JSON lines.
        csv: for detections as a table.
        save: annotated videos and images; ``open_sink`` makes the sink of each stream, by its name.
        open_sink: see ``save``.
        receivers: addresses of events, ``mqtt://`` or ``https://``.
        spool: folder for events that wait, a file for each receiver; None for ``event_spool``.
        strict: older files are replaced, and one that cannot be written is raised by ``write`` or at the end; else
            they are continued, an error is logged, the rest goes on, the file is tried again, and at the end the log
            says what was lost. Of events it always does.

    Raises:
        OSError: a file cannot be opened.
        RetinaEdgeError: an address that cannot be used, or one twice.
    """
    spools = [(spool or event_spool()) / f"{_file_name(address)}.sqlite" for address in receivers]
    if len(set(spools)) != len(spools):
        raise RetinaEdgeError("--events: expected each address once; passwords and queries make them no other")
    sinks: list[tuple[Path, Sink]] = []
    texts: list[tuple[Path | None, type[TextFileSink]]] = [(jsonl, JsonlSink), (csv, CsvSink)]
    for path, kind in texts:
        if path is not None:
            make = partial(kind, path, append=not strict)
            sinks.append((path, make() if strict else RetryingSink(str(path), make)))
    if save is not None and open_sink is not None:
        sinks.append((save, PerStreamSink(open_sink)))
    with ExitStack() as stack:
        deliveries = [
            stack.enter_context(deliver_to(address, path)) for address, path in zip(receivers, spools, strict=True)
        ]
        events = stack.enter_context(EventDispatcher(deliveries))
        files = [BackgroundSink(sink, capacity=QUEUE_CAPACITY, on_error=None if strict else _tell) for _, sink in sinks]
        for file in files:
            stack.enter_context(file)
        outputs = Outputs(
            dict(zip(_names(str(path) for path, _ in sinks), files, strict=True)),
            dict(zip(_names(delivery.state.name for delivery in deliveries), deliveries, strict=True)),
            events,
        )
        opened = stack.pop_all()
    try:
        with opened:
            yield outputs
    finally:
        if failed := [status for status in outputs.failed if not strict or status.kind == "events"]:
            logger.error("outputs failed: %s", "; ".join(map(str, failed)))


def _file_name(address: str) -> str:
    """The same for an address whatever its password."""
    return hashlib.sha256(redact(address).encode()).hexdigest()[:16]


def _names(names: Iterable[str]) -> list[str]:
    """Each once: two webhooks of a host are called alike, because their paths are secret. Bytes of a path that are no
    UTF-8 become escapes, for neither JSON nor metrics hold them."""
    unique: list[str] = []
    for name in names:
        text = printable(name)
        candidates = chain([text], (f"{text} ({number})" for number in count(2)))
        unique.append(next(candidate for candidate in candidates if candidate not in unique))
    return unique


def _tell(error: BaseException) -> None:
    """What no new attempt mends ends this file, and neither the page nor the others."""
    logger.error("%s; nothing more is written there", error)


def _of_file(name: str, sink: BackgroundSink) -> OutputStatus:
    state: Literal["ok", "waiting", "lost", "failed"] = "ok"
    if sink.failing:
        state = "failed"
    elif sink.pending >= QUEUE_CAPACITY:
        state = "waiting"
    elif sink.dropped or sink.lost:
        state = "lost"
    error = sink.error
    text = "" if error is None else printable(str(error))
    return OutputStatus(name, "file", state, sink.pending, sink.done, sink.dropped, sink.lost, text)


def _of_receiver(name: str, receiver: DeliveryWorker, unsent: int) -> OutputStatus:
    """``unsent`` events found no room on their way to the spools, of all receivers alike."""
    found = receiver.state
    dropped = found.dropped + unsent
    state: Literal["ok", "waiting", "lost", "failed"] = "ok"
    if found.disk_error or (found.pending and found.connected_since is None):
        state = "waiting"
    elif dropped or found.failed:
        state = "lost"
    error = found.disk_error or found.last_error or ""
    return OutputStatus(name, "events", state, found.pending, found.delivered, dropped, found.failed, error)
