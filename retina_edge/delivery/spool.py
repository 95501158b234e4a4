"""A queue of small messages on disk, first in, first out, between the sources of events and their delivery.

``put`` returns when the message is synchronized to the disk. From then on, the message survives a killed process and a
power cut.

A spool with more than ``max_messages`` or ``max_bytes`` drops its oldest messages and counts them in ``dropped``. While
the disk cannot be written, new messages wait in memory within narrower bounds, and the oldest ones beyond these bounds
are dropped. Writing to the disk is retried every few seconds, and then stores the waiting messages in order. A message
that is dropped while in flight may still arrive, so ``dropped`` is never less than the number of lost messages.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from retina_edge.delivery.spool_file import (
    DamagedSpoolError,
    Message,
    SpoolError,
    SpoolFile,
    SpoolSize,
    is_damage,
    put_away,
)

# Messages are events, not images. A larger message is a mistake, and brokers refuse it.
MAX_MESSAGE_BYTES = 256 * 1024
# Bounds of the messages in memory while the disk cannot be written.
MEMORY_BOUNDS = SpoolSize(10_000, 8 * 2**20)
# Seconds between two attempts to write to a disk that failed.
RETRY_SECONDS = 5.0
# Longest wait at the end for a write in progress, in seconds. Otherwise, a disk that hangs would block the end forever.
CLOSE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Spool:
    """A bounded persistent queue. Any number of threads of one process may use it inside its ``with`` block.

    ``put`` waits for the disk, so do not call it from a thread that captures frames.

    Args:
        path: path of the file; the file and its folder are created if they do not exist. SQLite adds ``NAME-wal``.
        max_messages: largest number of messages; beyond this number, the oldest messages are dropped.
        max_bytes: largest total size of the payloads. The file takes about a tenth more, and 4 MB for its log.

    Attributes:
        name: permanent name of the file, 32 hexadecimal digits, the same after a restart.

    Raises:
        SpoolError: on entering, if another process uses the file. A damaged file is renamed, and a new one begins.
        ValueError: if a bound is below 1.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, Spool(Path(folder) / "events.sqlite") as spool:
        ...     spool.put({"track": 7})
        ...     (message,) = spool.peek()
        ...     spool.acknowledge(message)
        >>> message.payload, len(spool)
        (b'{"track":7}', 0)
    """

    def __init__(self, path: Path, *, max_messages: int = 100_000, max_bytes: int = 64 * 2**20) -> None:
        if max_messages < 1 or max_bytes < 1:
            raise ValueError(f"expected bounds of at least 1, got max_messages {max_messages}, max_bytes {max_bytes}")
        self.path = path
        self.name = uuid.uuid4().hex
        self._bounds = SpoolSize(max_messages, max_bytes)
        self._memory_bounds = SpoolSize(min(max_messages, MEMORY_BOUNDS.count), min(max_bytes, MEMORY_BOUNDS.size))
        self._lock = threading.Lock()
        self._inside = False
        self._file: SpoolFile | None = None
        self._held = SpoolSize()
        # Messages that are not in the file yet. While the disk works, this is empty except inside ``put``.
        self._tail: deque[Message] = deque()
        self._tail_amount = SpoolSize()
        self._last_id = 0
        # All messages up to this id are finished, even if the disk could not delete them.
        self._done = 0
        self._dropped = 0
        self._error: str | None = None
        # True if ``put`` has raised the error of the present outage.
        self._reported = False
        self._retry_at = 0.0

    def __enter__(self) -> Spool:
        with self._lock:
            try:
                self._open()
            except (sqlite3.OperationalError, OSError) as error:
                self._fail(error)
            self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._lock.acquire(timeout=CLOSE_SECONDS):
            logger.error("%s: the disk does not answer; up to %d messages are lost", self.path, len(self._tail))
            self._dropped += len(self._tail)
            return
        try:
            self._retry_at = 0.0
            self._store()
            self._inside = False
            if self._tail:
                logger.error("%s: %d messages are lost: %s", self.path, len(self._tail), self._error)
                self._dropped += len(self._tail)
                self._tail.clear()
            if self._file is not None:
                self._file.close()
                self._file = None
        finally:
            self._lock.release()

    def __len__(self) -> int:
        """Return the number of waiting messages, including those in memory."""
        return self._held.count + len(self._tail)

    @property
    def dropped(self) -> int:
        """Messages dropped since the start, because the spool was full or the disk could not be written at the end."""
        return self._dropped

    @property
    def in_memory(self) -> int:
        """Messages that are only in memory, because the disk cannot be written."""
        return len(self._tail)

    @property
    def error(self) -> str | None:
        """Error of the disk that keeps messages in memory; None if the disk works."""
        return self._error

    def put(self, message: Mapping[str, Any]) -> None:
        """Append a message to the queue.

        Raises:
            SpoolError: once in each outage of the disk. The message is kept in memory, as later ones are.
            ValueError: if the message is not JSON, or is larger than 256 KiB or the spool's own bound. The message is
                not kept.
        """
        payload = _encode(message, min(MAX_MESSAGE_BYTES, self._bounds.size))
        with self._lock:
            self._check_inside()
            self._last_id += 1
            self._tail.append(Message(self._last_id, uuid.uuid4().hex, payload))
            self._tail_amount += SpoolSize(1, len(payload))
            self._store()
            while self._tail_amount.exceeds(self._memory_bounds):
                self._pop_tail()
                self._dropped += 1
            if self._error is not None and not self._reported:
                self._reported = True
                raise SpoolError(self._error)

    def peek(self, limit: int = 1) -> list[Message]:
        """Return the oldest messages, at most ``limit``. They stay in the queue until they are acknowledged.

        Raises:
            SpoolError: if the disk cannot be read.
        """
        with self._lock:
            self._check_inside()
            self._store()
            messages: list[Message] = []
            if self._file is not None and self._held.count:
                try:
                    messages = self._file.read(self._done, limit)
                except sqlite3.Error as error:
                    if is_damage(error):
                        self._fail(error)
                    raise SpoolError(f"{self.path}: the spool cannot be read ({error}); check the disk") from error
            return messages + list(self._tail)[: limit - len(messages)]

    def acknowledge(self, message: Message) -> None:
        """Remove a message and all earlier ones from the queue."""
        with self._lock:
            self._check_inside()
            self._finish(message)

    def set_aside(self, message: Message, reason: str) -> None:
        """Remove a message and all earlier ones from the queue, but keep this message until ``restore``.

        The file keeps the newest 1000 messages that were set aside. If the disk cannot be written, the message is
        dropped instead, and counted in ``dropped``.
        """
        with self._lock:
            self._check_inside()
            try:
                if self._file is None:
                    raise sqlite3.OperationalError("the file is not open")
                self._file.set_aside(message, reason)
            except sqlite3.Error as error:
                self._fail(error)
                self._dropped += 1
            self._finish(message)

    def restore(self) -> int:
        """Move the messages that were set aside to the end of the queue, in order, and return their number.

        Raises:
            SpoolError: if the disk cannot be written.
        """
        with self._lock:
            self._check_inside()
            self._retry_at = 0.0
            self._store()
            if self._file is None or self._error is not None:
                raise SpoolError(str(self._error))
            try:
                restored = self._file.restore(self._last_id + 1)
            except sqlite3.Error as error:
                raise SpoolError(self._fail(error)) from error
            self._last_id += restored.count
            self._held += restored
            return restored.count

    def _check_inside(self) -> None:
        if not self._inside:
            raise ValueError(f"{self.path}: a spool can only be used inside its with block")

    def _open(self) -> None:
        try:
            file = SpoolFile(self.path)
        except DamagedSpoolError as error:
            logger.warning("%s; it is kept as %s, and a new spool begins", error, put_away(self.path).name)
            file = SpoolFile(self.path)
        # This process has assigned ids while the file could not be opened. A file with older messages may use them too.
        if file.newest and self._last_id:
            file.close()
            raise SpoolError(f"{self.path}: is available again, with messages of an earlier run; restart to send them")
        self._file, self.name, self._held = file, file.name, file.amount()
        self._last_id = max(self._last_id, file.newest)

    def _store(self) -> None:
        """Move the messages in memory to the disk. If that fails, keep them in memory."""
        if self._error is None and not self._tail:
            return
        if self._error is not None and time.monotonic() < self._retry_at:
            return
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            if self._error is not None:  # delete the messages that were finished meanwhile
                self._file.remove(self._done)
                self._held = self._file.amount()
            held = self._file.append(self._tail, held=self._held, bounds=self._bounds)
        except (sqlite3.Error, SpoolError, OSError) as error:
            self._fail(error)
            return
        self._dropped += self._held.count + len(self._tail) - held.count
        self._held = held
        self._tail.clear()
        self._tail_amount = SpoolSize()
        if self._error is not None:
            logger.info("%s: messages are written to the disk again", self.path)
            self._error, self._reported = None, False

    def _finish(self, message: Message) -> None:
        self._done = max(self._done, message.id)
        while self._tail and self._tail[0].id <= message.id:
            self._pop_tail()
        if self._file is not None:
            try:
                self._held -= self._file.remove(message.id)
            except sqlite3.Error as error:
                self._fail(error)

    def _pop_tail(self) -> None:
        self._tail_amount -= SpoolSize(1, len(self._tail.popleft().payload))

    def _fail(self, error: Exception) -> str:
        """Record that the disk cannot be written, and log it once per outage. A damaged file is left for a new one."""
        if is_damage(error) and self._file is not None:
            self._file.close()
            self._file = None
            self._dropped += self._held.count
            self._held = SpoolSize()
        self._retry_at = time.monotonic() + RETRY_SECONDS
        text = (
            f"{self.path}: messages cannot be written to the disk ({error}) and wait in memory; free some space or "
            "choose another folder with --spool"
        )
        if self._error is None:
            logger.warning("%s", text)
        self._error = text
        return text


def _encode(message: Mapping[str, Any], max_bytes: int) -> bytes:
    """Return a message as JSON in UTF-8. Names that are not UTF-8 become JSON escapes."""
    try:
        text = json.dumps(dict(message), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a message of JSON values, got {error}; convert its values first") from error
    payload = text.encode("utf-8", "backslashreplace")
    if len(payload) > max_bytes:
        raise ValueError(f"expected a message of at most {max_bytes} bytes, got {len(payload)}; omit images")
    return payload
