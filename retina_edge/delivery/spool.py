"""A queue of small messages on disk, first in, first out, between what makes events and what sends them away.

``put`` returns when the message is synchronized to the disk: it outlives a killed process and a power cut.

What is full drops its oldest: beyond ``max_messages`` or ``max_bytes`` the oldest message goes and is counted in
``dropped``. While the disk cannot be written, the newest messages wait in memory, within narrower bounds, where again
the oldest go; the disk is tried every few seconds, and then takes them in order. A message may be dropped while it is
on its way and arrive all the same, so ``dropped`` is never less than what was lost.
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

from retina_edge.delivery.spool_file import Message, SpoolError, SpoolFile, SpoolSize

# Messages are events, not pictures: a larger one is a mistake, and brokers refuse it.
MAX_MESSAGE_BYTES = 256 * 1024
# Kept in memory while the disk cannot be written.
MEMORY_BOUNDS = SpoolSize(10_000, 8 * 2**20)
# Between two attempts to write to a disk that failed.
RETRY_SECONDS = 5.0
# At the end, for a write in progress: a disk that hangs would hold up the end for ever.
CLOSE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Spool:
    """A bounded persistent queue; used inside its ``with`` block, by any number of threads of one process.

    ``put`` waits for the disk, so call it from a sink's thread, not from one that captures.

    Args:
        path: the file; made, with its folder, where it is missing. Beside it lies ``NAME-wal``.
        max_messages: more than these drop the oldest.
        max_bytes: of all payloads together; the file takes about a tenth more, and 4 MB for its log.

    Attributes:
        name: 32 hexadecimal digits, the file's own for good: stays the same over restarts.

    Raises:
        SpoolError: on entering: another process has the file, or it is no spool.
        ValueError: bounds below 1.
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
        # What the file does not hold yet: empty but inside put, unless the disk fails.
        self._tail: deque[Message] = deque()
        self._tail_amount = SpoolSize()
        self._last_id = 0
        # Everything up to this id is done with, also where the disk could not be told.
        self._done = 0
        self._dropped = 0
        self._error: str | None = None
        self._told = False
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
        """Messages that wait, those in memory included."""
        return self._held.count + len(self._tail)

    @property
    def dropped(self) -> int:
        """Messages given up since the spool was opened: it was full, or could not be written until the end."""
        return self._dropped

    @property
    def in_memory(self) -> int:
        """Messages that wait in memory only, because the disk cannot be written."""
        return len(self._tail)

    @property
    def error(self) -> str | None:
        """Why messages wait in memory; None when the disk is well."""
        return self._error

    def put(self, message: Mapping[str, Any]) -> None:
        """Takes a message at the end of the queue.

        Raises:
            SpoolError: once, the first time that the disk cannot be written. This message is kept all the same, in
                memory, and so are those that follow.
            ValueError: not JSON, more than 256 KiB, or more than the whole spool may hold; it is not kept.
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
            if self._error is not None and not self._told:
                self._told = True
                raise SpoolError(self._error)

    def peek(self, limit: int = 1) -> list[Message]:
        """The oldest messages, at most ``limit``, which stay in the queue until they are acknowledged.

        Raises:
            SpoolError: the disk cannot be read.
        """
        with self._lock:
            self._check_inside()
            self._store()
            found: list[Message] = []
            if self._file is not None and self._held.count:
                try:
                    found = self._file.read(self._done, limit)
                except sqlite3.Error as error:
                    raise SpoolError(f"{self.path}: the spool cannot be read ({error}); check the disk") from error
            return found + list(self._tail)[: limit - len(found)]

    def acknowledge(self, message: Message) -> None:
        """Takes a message and all before it out of the queue."""
        with self._lock:
            self._check_inside()
            self._finish(message)

    def set_aside(self, message: Message, reason: str) -> None:
        """Takes a message, and all before it, out of the queue and keeps it until ``restore``.

        The newest 1000 are kept. While the disk cannot be written it is dropped and counted.
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
        """Puts what was set aside at the end of the queue, in order, and says how many.

        Raises:
            SpoolError: the disk cannot be written.
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
            raise ValueError(f"{self.path}: a spool is used inside its with block only")

    def _open(self) -> None:
        file = SpoolFile(self.path)
        # Only a new file continues the ids that this process has given meanwhile.
        if file.newest and self._last_id:
            file.close()
            raise SpoolError(f"{self.path}: is back, with an earlier run's messages; restart to send them")
        self._file, self.name, self._held = file, file.name, file.amount()
        self._last_id = max(self._last_id, file.newest)

    def _store(self) -> None:
        """Moves what waits in memory to the disk; leaves it where it is when that fails."""
        if self._error is None and not self._tail:
            return
        if self._error is not None and time.monotonic() < self._retry_at:
            return
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            if self._error is not None:  # what could not be deleted meanwhile
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
            logger.info("%s: messages can be written again", self.path)
            self._error = None

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
        """Notes that the disk cannot be written; said in the log once, until it can again."""
        self._retry_at = time.monotonic() + RETRY_SECONDS
        text = (
            f"{self.path}: messages cannot be written to the disk ({error}) and wait in memory; free some space, or "
            "make the folder writable"
        )
        if self._error is None:
            logger.warning("%s", text)
        self._error = text
        return text


def _encode(message: Mapping[str, Any], max_bytes: int) -> bytes:
    """A message as UTF-8 JSON; names that are not UTF-8 become JSON escapes."""
    try:
        text = json.dumps(dict(message), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a message that is JSON, got {error}; convert its values first") from error
    payload = text.encode("utf-8", "backslashreplace")
    if len(payload) > max_bytes:
        raise ValueError(f"expected a message of at most {max_bytes} bytes, got {len(payload)}; leave pictures out")
    return payload
