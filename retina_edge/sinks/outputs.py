"""The outputs of a run: files for results and receivers of events, none of which holds up the detector."""

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
from retina_edge.sinks.clip_sink import ClipSink
from retina_edge.sinks.csv_sink import CsvSink
from retina_edge.sinks.per_stream_sink import PerStreamSink
from retina_edge.sinks.retention import Sweeper
from retina_edge.sinks.retrying_sink import RetryingSink
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.text_sink import JsonlSink, TextFileSink
from retina_edge.system.folders import event_spool
from retina_edge.system.printable import printable
from retina_edge.system.redaction import redact

# Results that may wait for a file. Each result holds its frame in memory.
QUEUE_CAPACITY = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputStatus:
    """The state of an output, and the number of results or events that it took and lost. Contains no credentials.

    Attributes:
        name: path of the file or folder, or address of the receiver without credentials; unique among the outputs.
        kind: ``file`` for results, ``events`` for a receiver of events.
        state: ``ok``; ``waiting`` for a slow disk or an unreachable receiver; ``lost`` if the output works but has
            lost results or events; ``failed`` if results of at least one stream are being lost.
        waiting: results that wait for the file, or events in the spool.
        done: results written, or events confirmed by the receiver, since the start.
        dropped: results or events that were dropped to make room for newer ones.
        lost: results that failed to be written or came after a failure; events that the receiver refused.
        error: the current error, or the latest one; empty if there was no error.

    Examples:
        >>> status = OutputStatus("out.jsonl", "file", "lost", 0, done=10, dropped=2, lost=0, error="")
        >>> str(status), status.incomplete
        ('out.jsonl: 2 results lost', False)
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
    def incomplete(self) -> bool:
        """True if results or events were lost, except results of live streams that a slow file may drop."""
        return self.state == "failed" or self.lost > 0 or (self.kind == "events" and self.dropped > 0)

    def __str__(self) -> str:
        gone = self.dropped + self.lost
        what = ("result" if self.kind == "file" else "event") + ("s" if gone != 1 else "")
        text = f"{self.name}: {f'{gone} {what} lost' if gone else 'incomplete'}"
        return f"{text} ({self.error})" if self.error else text


class Outputs:
    """The open outputs of a run: every result goes to all files, and its events go to all receivers.

    Args:
        files: sinks by name; their background threads already run.
        receivers: deliveries to the receivers of events, by name.
        events: dispatcher that puts events into the spools of the receivers.
        clips: sink of clips, which is one of the files; None without clips.
    """

    def __init__(
        self,
        files: Mapping[str, BackgroundSink],
        receivers: Mapping[str, DeliveryWorker],
        events: EventDispatcher,
        clips: ClipSink | None = None,
    ) -> None:
        self._files, self._receivers, self._events, self._clips = files, receivers, events, clips

    def name_clips(self, result: Result) -> Result:
        """Return the result with events that name their clips, to be written next; unchanged without clips."""
        return result if self._clips is None else self._clips.name_clips(result)

    def write(self, result: Result) -> None:
        """Pass a result to the files and its events to the receivers. A failed file counts the result as lost."""
        for event in result.events:
            self._events.send(event)
        for sink in self._files.values():
            sink.write(result)

    def end(self, stream: str) -> None:
        """Finish the files of a stream that has no more results."""
        for sink in self._files.values():
            sink.end(stream)

    @property
    def seconds(self) -> float:
        """Seconds that the files have spent writing."""
        return sum(sink.seconds for sink in self._files.values())

    @property
    def written(self) -> list[Path]:
        """Files and folders that are complete; known after the ``with`` block."""
        return list(dict.fromkeys(path for sink in self._files.values() for path in sink.written))

    def status(self) -> list[OutputStatus]:
        """Return the status of every output. Thread-safe, also after the ``with`` block."""
        return [
            *(_file_status(name, sink) for name, sink in self._files.items()),
            *(_receiver_status(name, receiver, self._events.dropped) for name, receiver in self._receivers.items()),
        ]

    @property
    def incomplete(self) -> list[OutputStatus]:
        """The status of each output that is incomplete, as ``OutputStatus.incomplete`` defines it."""
        return [status for status in self.status() if status.incomplete]


@contextmanager
def open_outputs(
    *,
    jsonl: Path | None = None,
    csv: Path | None = None,
    save: Path | None = None,
    open_sink: Callable[[str], Sink] | None = None,
    receivers: Sequence[str] = (),
    spool: Path | None = None,
    clips: tuple[Path, ClipSink] | None = None,
    sweeper: Sweeper | None = None,
    strict: bool,
) -> Iterator[Outputs]:
    """Open files and event deliveries for the duration of the block.

    If ``strict``, older files are overwritten, and ``write`` or the end of the block raises the first error of a file.
    Otherwise, older files are continued, an error is logged, and writing the file is retried while the other outputs
    continue; the end of the block then logs how many results were lost. Lost events are logged in both cases.

    Args:
        jsonl: file for results as JSON lines.
        csv: file for detections as a table.
        save: annotated video, or folder for annotated videos and images; used only together with ``open_sink``.
        open_sink: callback that returns the sink of a stream for ``save``, given the name of the stream.
        receivers: addresses that events are delivered to, ``mqtt://`` or ``https://``.
        spool: folder for waiting events, with one file for each receiver; None for ``event_spool()``.
        clips: folder and sink of clips, not entered yet; None for no clips.
        sweeper: sweeper of old recordings and clips, not entered yet; None to keep all.
        strict: True to overwrite older files and to raise errors.

    Raises:
        OSError: if a file cannot be opened.
        RetinaEdgeError: if an address cannot be used or is given twice.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, open_outputs(jsonl=Path(folder) / "out.jsonl", strict=True) as outputs:
        ...     [(status.kind, status.state, status.done) for status in outputs.status()]
        [('file', 'ok', 0)]
    """
    folder = spool or event_spool()
    if receivers and folder is None:
        raise RetinaEdgeError(
            "--events: expected a folder where events wait for delivery, found no home folder of this user; name one "
            "with --spool"
        )
    spools = [folder / f"{_file_name(address)}.sqlite" for address in receivers if folder is not None]
    if len(set(spools)) != len(spools):
        raise RetinaEdgeError(
            "--events: expected each address once; addresses that differ only in user, password or query are the same"
        )
    sinks: list[tuple[Path, Sink]] = []
    texts: list[tuple[Path | None, type[TextFileSink]]] = [(jsonl, JsonlSink), (csv, CsvSink)]
    for path, kind in texts:
        if path is not None:
            make = partial(kind, path, append=not strict)
            sinks.append((path, make() if strict else RetryingSink(str(path), make)))
    if save is not None and open_sink is not None:
        sinks.append((save, PerStreamSink(open_sink)))
    if clips is not None:
        sinks.append(clips)
    with ExitStack() as stack:
        deliveries = [
            stack.enter_context(deliver_to(address, path)) for address, path in zip(receivers, spools, strict=True)
        ]
        events = stack.enter_context(EventDispatcher(deliveries))
        files = [
            BackgroundSink(sink, capacity=QUEUE_CAPACITY, on_error=None if strict else _log_end) for _, sink in sinks
        ]
        for file in files:
            stack.enter_context(file)
        if sweeper is not None:
            stack.enter_context(sweeper)
        outputs = Outputs(
            dict(zip(_names(str(path) for path, _ in sinks), files, strict=True)),
            dict(zip(_names(delivery.state.name for delivery in deliveries), deliveries, strict=True)),
            events,
            None if clips is None else clips[1],
        )
        opened = stack.pop_all()
    try:
        with opened:
            yield outputs
    finally:
        if failed := [status for status in outputs.incomplete if not strict or status.kind == "events"]:
            logger.error("outputs failed: %s", "; ".join(map(str, failed)))


def _file_name(address: str) -> str:
    """Return a file name for an address. Its credentials do not change the name."""
    return hashlib.sha256(redact(address).encode()).hexdigest()[:16]


def _names(names: Iterable[str]) -> list[str]:
    """Return the names made unique and printable.

    Two webhooks of one host have the same name, because their paths are secret. Bytes of a path that are not UTF-8
    become escapes, because neither JSON nor metrics can hold them.
    """
    unique: list[str] = []
    for name in names:
        text = printable(name)
        candidates = chain([text], (f"{text} ({number})" for number in count(2)))
        unique.append(next(candidate for candidate in candidates if candidate not in unique))
    return unique


def _log_end(error: BaseException) -> None:
    """Log an error that a retry cannot fix. The error ends this file, but neither the page nor the other files."""
    logger.error("%s; nothing more is written there", error)


def _file_status(name: str, sink: BackgroundSink) -> OutputStatus:
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


def _receiver_status(name: str, receiver: DeliveryWorker, unsent: int) -> OutputStatus:
    """Return the status of a receiver. ``unsent`` events were dropped before they reached the spool of any receiver."""
    delivery = receiver.state
    dropped = delivery.dropped + unsent
    state: Literal["ok", "waiting", "lost", "failed"] = "ok"
    if delivery.disk_error or (delivery.pending and delivery.connected_since is None):
        state = "waiting"
    elif dropped or delivery.failed:
        state = "lost"
    error = delivery.disk_error or delivery.last_error or ""
    return OutputStatus(name, "events", state, delivery.pending, delivery.delivered, dropped, delivery.failed, error)
