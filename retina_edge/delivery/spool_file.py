"""The file of a spool: one SQLite database in WAL mode, locked for as long as it is open.

What waits and what was set aside lie in a table each. Appending is synchronized to the disk, deleting is not: after a
power cut some messages come again, none is lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engines.core.errors import RetinaEdgeError

# Messages that the receiver refused, kept for people to look at.
MAX_SET_ASIDE = 1000
# How long a predecessor may take to let go of the file.
LOCK_SECONDS = 1.0
# "REsp": tells our files from other SQLite databases.
APPLICATION_ID = 0x52457370

_MAX_ID = 2**63 - 1
_SCHEMA = """
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, payload BLOB NOT NULL);
CREATE TABLE set_aside (id INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL, reason TEXT NOT NULL);
CREATE TABLE spool (name TEXT NOT NULL);
INSERT INTO spool SELECT lower(hex(randomblob(16)));
"""


class SpoolError(RetinaEdgeError):
    """A spool cannot be opened, read or written."""


@dataclass(frozen=True)
class Message:
    """One message of a spool.

    Attributes:
        id: its place; grows by the order in which messages came.
        key: 32 hexadecimal digits, the same in every attempt to deliver it, so that a receiver can tell a repeat.
        payload: a JSON object, UTF-8.
    """

    id: int
    key: str
    payload: bytes


@dataclass(frozen=True)
class SpoolSize:
    """How many messages, and the bytes of their payloads."""

    count: int = 0
    size: int = 0

    def __add__(self, other: SpoolSize) -> SpoolSize:
        return SpoolSize(self.count + other.count, self.size + other.size)

    def __sub__(self, other: SpoolSize) -> SpoolSize:
        return SpoolSize(self.count - other.count, self.size - other.size)

    def exceeds(self, bounds: SpoolSize) -> bool:
        """Whether either is more than allowed."""
        return self.count > bounds.count or self.size > bounds.size


class SpoolFile:
    """Opens and locks the file, making it and its folder where they are missing. For one thread at a time.

    Attributes:
        name: 32 hexadecimal digits, this file's for good.
        newest: the largest id it ever held; 0 where it is new.

    Raises:
        SpoolError: another process has the file, or it is no spool.
        OSError, sqlite3.OperationalError: it cannot be opened or made, for instance on a full disk. All methods
            raise ``sqlite3.Error`` when the disk cannot be read or written, and have then changed nothing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # Before the first access: the lock is then held until the connection closes or its process ends.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            # A new file is written to, an old one only read: it opens on a full disk too.
            if not self._number("SELECT COUNT(*) FROM sqlite_master"):
                self._db.execute("PRAGMA journal_mode = WAL")
                with self._transaction(durable=True) as db:
                    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    for statement in _SCHEMA.strip().splitlines():
                        db.execute(statement)
            elif self._number("PRAGMA application_id") != APPLICATION_ID:
                raise SpoolError(f"{path}: an SQLite database, but no spool; give another name")
            with self._transaction(durable=False):
                self.name = str(self._db.execute("SELECT name FROM spool").fetchone()[0])
                self.newest = self._number("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'messages'")
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise SpoolError(
                    f"{path}: another process, or another part of this one, uses this spool; end it, or give this one "
                    "a file of its own"
                ) from error
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                raise SpoolError(
                    f"{path}: damaged, or no spool ({error}); move it away, and it is made anew"
                ) from error
            raise

    def close(self) -> None:
        """Lets go of the file."""
        with suppress(sqlite3.Error):  # everything that was promised is in its log
            self._db.close()

    def amount(self) -> SpoolSize:
        """What waits."""
        return _amount(self._db, _MAX_ID)

    def read(self, after: int, limit: int) -> list[Message]:
        """The oldest messages whose id is larger than ``after``, at most ``limit``."""
        rows = self._db.execute(
            "SELECT id, key, payload FROM messages WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [Message(*row) for row in rows]

    def append(self, messages: Sequence[Message], *, held: SpoolSize, bounds: SpoolSize) -> SpoolSize:
        """Adds messages and drops the oldest beyond the bounds, the new ones included.

        Args:
            messages: with ids larger than all before.
            held: what waits in the file.
            bounds: what may wait afterwards.

        Returns:
            What waits now.
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
        """Deletes all messages up to an id; says how much that was."""
        with self._transaction(durable=False) as db:
            removed = _amount(db, last)
            db.execute("DELETE FROM messages WHERE id <= ?", (last,))
        return removed

    def set_aside(self, message: Message, reason: str) -> None:
        """Keeps a message outside the queue, the newest 1000 of such."""
        with self._transaction(durable=True) as db:
            row = (message.id, message.key, message.payload, reason)
            db.execute("INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?, ?)", row)
            db.execute(
                "DELETE FROM set_aside WHERE id NOT IN (SELECT id FROM set_aside ORDER BY id DESC LIMIT ?)",
                (MAX_SET_ASIDE,),
            )

    def restore(self, first: int) -> SpoolSize:
        """Puts what was set aside at the end of the queue, in order, with ids from ``first`` on; says how much."""
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
        """All or nothing; ``durable``: synchronized to the disk, with all transactions before it."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise


def size_of_messages(messages: Sequence[Message]) -> SpoolSize:
    """Of messages in memory."""
    return SpoolSize(len(messages), sum(len(message.payload) for message in messages))


def _amount(db: sqlite3.Connection, last: int) -> SpoolSize:
    """Of the messages up to an id."""
    query = "SELECT COUNT(*), COALESCE(SUM(LENGTH(payload)), 0) FROM messages WHERE id <= ?"
    return SpoolSize(*db.execute(query, (last,)).fetchone())
