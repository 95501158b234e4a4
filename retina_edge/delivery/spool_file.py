"""The file of a spool: one SQLite database in WAL mode, locked while it is open.

One table holds the waiting messages, another one the messages that were set aside. Appending is synchronized to the
disk, while deleting is not. After a power cut, some messages are therefore sent again, but no message is lost.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engines.core.errors import RetinaEdgeError

# Refused messages that are kept for inspection.
MAX_SET_ASIDE = 1000
# Seconds that a previous process may take to release the file.
LOCK_SECONDS = 1.0
# "REsp": distinguishes spools from other SQLite databases.
APPLICATION_ID = 0x52457370

_MAX_ID = 2**63 - 1
_SCHEMA = """
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE set_aside (id INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL, reason TEXT NOT NULL);
CREATE TABLE spool (name TEXT NOT NULL);
INSERT INTO spool SELECT lower(hex(randomblob(16)));
"""


# Number of values that this program never writes: ids beyond the sequence or near the end of the range, other types.
_WRONG_VALUES = """
SELECT (SELECT COUNT(*) FROM messages WHERE typeof(key) <> 'text' OR typeof(payload) <> 'blob' OR id < 1)
    + (SELECT COUNT(*) FROM (SELECT MAX(id) AS last FROM messages) WHERE last > COALESCE(
        (SELECT seq FROM sqlite_sequence WHERE name = 'messages' AND typeof(seq) = 'integer'), 0))
    + (SELECT COUNT(*) FROM sqlite_sequence WHERE name = 'messages'
        AND (typeof(seq) <> 'integer' OR seq NOT BETWEEN 0 AND 4611686018427387904))
"""


class SpoolError(RetinaEdgeError):
    """A failure to open, read or write a spool."""


class DamagedSpoolError(SpoolError):
    """The file is damaged, or something else than a spool."""


@dataclass(frozen=True)
class Message:
    """One message of a spool.

    Attributes:
        id: position in the queue; later messages have larger ids.
        key: 32 hexadecimal digits, the same in every attempt at delivery, so that a receiver can recognize a repeat.
        payload: JSON object in UTF-8.
    """

    id: int
    key: str
    payload: bytes


@dataclass(frozen=True)
class SpoolSize:
    """A number of messages and the total size of their payloads in bytes.

    Attributes:
        count: number of messages.
        size: bytes of the payloads.

    Examples:
        >>> SpoolSize(2, 500) + SpoolSize(1, 100)
        SpoolSize(count=3, size=600)
        >>> SpoolSize(3, 600).exceeds(SpoolSize(10, 512))
        True
    """

    count: int = 0
    size: int = 0

    def __add__(self, other: SpoolSize) -> SpoolSize:
        return SpoolSize(self.count + other.count, self.size + other.size)

    def __sub__(self, other: SpoolSize) -> SpoolSize:
        return SpoolSize(self.count - other.count, self.size - other.size)

    def exceeds(self, bounds: SpoolSize) -> bool:
        """True if the count or the size exceeds its bound."""
        return self.count > bounds.count or self.size > bounds.size


class SpoolFile:
    """The opened and locked file of a spool. Not thread-safe.

    If the disk cannot be read or written, a method raises ``sqlite3.Error`` and leaves the file unchanged.

    Args:
        path: path of the file; the file and its folder are created if they do not exist.

    Attributes:
        name: permanent name of this file, 32 hexadecimal digits.
        newest: largest id that the file ever held; 0 for a new file.

    Raises:
        SpoolError: if another process uses the file.
        DamagedSpoolError: if the file is not a spool, or damaged.
        OSError, sqlite3.OperationalError: if the file cannot be opened or created, for instance on a full disk.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # Set before the first access, so that the lock is held until the connection closes or its process ends.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            # Only a new file is written here, so that an existing spool can be opened on a full disk too.
            if not self._number("SELECT COUNT(*) FROM sqlite_master"):
                self._db.execute("PRAGMA journal_mode = WAL")
                with self._transaction(durable=True) as db:
                    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    for statement in _SCHEMA.strip().splitlines():
                        db.execute(statement)
            elif self._number("PRAGMA application_id") != APPLICATION_ID:
                raise DamagedSpoolError(f"{path}: expected a spool, got another SQLite database")
            elif (found := str(self._db.execute("PRAGMA quick_check(1)").fetchone()[0])) != "ok":
                raise DamagedSpoolError(f"{path}: expected a spool, got a damaged file ({' '.join(found.split())})")
            elif self._number(_WRONG_VALUES):
                raise DamagedSpoolError(f"{path}: expected a spool, got values of other kinds")
            with self._transaction(durable=False):
                self.name = str(self._db.execute("SELECT name FROM spool").fetchone()[0])
                self.newest = self._number("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'messages'")
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise SpoolError(
                    f"{path}: another process, or another part of this process, uses this spool; end it, or use "
                    "another file"
                ) from error
            if is_damage(error):
                raise DamagedSpoolError(f"{path}: expected a spool, got a damaged file ({error})") from error
            raise

    def close(self) -> None:
        """Close and unlock the file."""
        with suppress(sqlite3.Error):  # all durable transactions are already in the log
            self._db.close()

    def amount(self) -> SpoolSize:
        """Return the number and size of the waiting messages."""
        return _amount(self._db, _MAX_ID)

    def read(self, after: int, limit: int) -> list[Message]:
        """Return the oldest messages with an id larger than ``after``, at most ``limit``."""
        rows = self._db.execute(
            "SELECT id, key, payload FROM messages WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [Message(*row) for row in rows]

    def append(self, messages: Sequence[Message], *, held: SpoolSize, bounds: SpoolSize) -> SpoolSize:
        """Add messages, and drop the oldest ones until the bounds are met. New messages may be dropped too.

        Args:
            messages: new messages, with ids larger than all before.
            held: number and size of the messages in the file.
            bounds: largest number and size of the messages afterwards.

        Returns:
            Number and size of the messages that are now in the file.
        """
        with self._transaction(durable=True) as db:
            db.executemany(
                "INSERT INTO messages (id, key, payload) VALUES (?, ?, ?)",
                [(message.id, message.key, message.payload) for message in messages],
            )
            held += size_of_messages(messages)
            if held.exceeds(bounds):
                last = 0
                oldest = db.execute("SELECT id, LENGTH(payload) FROM messages ORDER BY id")
                while held.exceeds(bounds) and (row := oldest.fetchone()) is not None:
                    last = row[0]
                    held -= SpoolSize(1, row[1])
                db.execute("DELETE FROM messages WHERE id <= ?", (last,))
        return held

    def remove(self, last: int) -> SpoolSize:
        """Delete all messages up to an id, and return their number and size."""
        with self._transaction(durable=False) as db:
            removed = _amount(db, last)
            db.execute("DELETE FROM messages WHERE id <= ?", (last,))
        return removed

    def set_aside(self, message: Message, reason: str) -> None:
        """Keep a copy of a message outside the queue. Only the newest 1000 copies are kept."""
        with self._transaction(durable=True) as db:
            row = (message.id, message.key, message.payload, reason)
            db.execute("INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?, ?)", row)
            db.execute(
                "DELETE FROM set_aside WHERE id NOT IN (SELECT id FROM set_aside ORDER BY id DESC LIMIT ?)",
                (MAX_SET_ASIDE,),
            )

    def restore(self, first: int) -> SpoolSize:
        """Move the messages that were set aside to the end of the queue, in order.

        Args:
            first: new id of the first message; the following messages get consecutive ids.

        Returns:
            Number and size of the restored messages.
        """
        with self._transaction(durable=True) as db:
            rows = db.execute("SELECT key, payload FROM set_aside ORDER BY id").fetchall()
            messages = [Message(first + index, *row) for index, row in enumerate(rows)]
            db.executemany(
                "INSERT INTO messages (id, key, payload) VALUES (?, ?, ?)",
                [(message.id, message.key, message.payload) for message in messages],
            )
            db.execute("DELETE FROM set_aside")
        return size_of_messages(messages)

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction. If ``durable``, synchronize it and all earlier ones to the disk."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite may already have rolled back
                self._db.execute("ROLLBACK")
            raise


def is_damage(error: BaseException) -> bool:
    """True for an error that shows damage in the content of the file, and not a problem of its disk.

    A file that lost its tables or their rows is damaged, too; SQLite reports these as an operational error.

    Examples:
        >>> is_damage(sqlite3.DatabaseError("file is not a database")), is_damage(sqlite3.OperationalError("disk full"))
        (True, False)
    """
    if isinstance(error, sqlite3.OperationalError):
        return "no such table" in str(error) or "no such column" in str(error) or "malformed" in str(error)
    return isinstance(error, sqlite3.DatabaseError | TypeError)


def put_away(path: Path) -> Path:
    """Rename a damaged spool and its log, so that a new one can begin, and return its new path."""
    targets = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    target = next(target for target in targets if not target.exists())
    path.rename(target)
    for suffix in ("-wal", "-shm"):
        with suppress(OSError):
            path.with_name(f"{path.name}{suffix}").rename(target.with_name(f"{target.name}{suffix}"))
    return target


def size_of_messages(messages: Sequence[Message]) -> SpoolSize:
    """Return the number and size of messages in memory.

    Examples:
        >>> size_of_messages([Message(1, "0" * 32, b'{"track":7}')])
        SpoolSize(count=1, size=11)
    """
    return SpoolSize(len(messages), sum(len(message.payload) for message in messages))


def _amount(db: sqlite3.Connection, last: int) -> SpoolSize:
    """Return the number and size of the messages up to an id."""
    query = "SELECT COUNT(*), COALESCE(SUM(LENGTH(payload)), 0) FROM messages WHERE id <= ?"
    return SpoolSize(*db.execute(query, (last,)).fetchone())
