"""A limit on repeated log lines, because every connection of a stranger can cause one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Seconds after which a line may appear again.
PERIOD = 60


@dataclass
class _Repeats:
    """The first record of a kind in the current period, and the number of records that were held back."""

    first: logging.LogRecord
    count: int = 0


class RepeatLimit(logging.Filter):
    """A filter that passes one record of each kind per period and counts the others.

    Records are of one kind if the same line of code logs them with the same type of exception: their text may contain
    the address of a client. So the number of kinds is bounded.

    Examples:
        >>> import sys
        >>> logger, limit = logging.getLogger("example"), RepeatLimit()
        >>> logger.addHandler(logging.StreamHandler(sys.stdout))
        >>> with limit.applied_to("example"):
        ...     for port in range(1000):
        ...         logger.warning("invalid request from port %d", port)
        invalid request from port 0
        999 more lines like: invalid request from port 0
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[object, ...], _Repeats] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for the first record of its kind in a period."""
        if record.pathname == __file__:
            return True
        kind = (record.pathname, record.lineno, record.exc_info[0] if record.exc_info else None)
        if kind not in self._seen:
            self._seen[kind] = _Repeats(record)
            return True
        self._seen[kind].count += 1
        return False

    def report(self) -> None:
        """Log how many records were held back, and start a new period."""
        seen, self._seen = self._seen, {}
        for repeats in seen.values():
            if repeats.count:
                first = repeats.first
                line = first.getMessage().partition("\n")[0]
                logging.getLogger(first.name).log(first.levelno, "%d more lines like: %s", repeats.count, line)

    @contextmanager
    def applied_to(self, *names: str) -> Iterator[None]:
        """Limit the records of loggers within the block, and report the rest at its end.

        Args:
            names: names of the loggers.
        """
        loggers = [logging.getLogger(name) for name in names]
        for logger in loggers:
            logger.addFilter(self)
        try:
            yield
        finally:
            self.report()
            for logger in loggers:
                logger.removeFilter(self)
