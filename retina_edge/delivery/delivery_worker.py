"""A worker that sends the messages of a spool to their receiver, in order, until each one is confirmed.

Delivery is at least once: a message leaves the spool when the receiver has confirmed it. Until then it is sent again,
after a back-off or a restart. A message that the receiver refuses for good is set aside in the spool, so that it does
not hold up the others.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from retina_edge.delivery.spool import Spool
from retina_edge.delivery.spool_file import Message, SpoolError
from retina_edge.delivery.transport import DeliveryError, MessageRefused, ReceiverUnreachable, Transport
from retina_edge.system.timestamps import utc_iso

# Seconds at the end for sending waiting messages. The remaining messages stay in the spool.
STOP_SECONDS = 5.0
# Seconds after that for the thread to end.
GRACE_SECONDS = 2.0
# Seconds between two checks of an idle connection.
IDLE_SECONDS = 1.0
# Longest Retry-After that is followed, in seconds. A longer one is probably a mistake of the receiver.
MAX_RETRY_AFTER = 900.0
# Failures in a row after which the first message is set aside, if the receiver takes one of the next messages.
MAX_TRIES, PROBES = 10, 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """Waiting times that double after each failure, with jitter, so that many machines do not reconnect at once.

    Attributes:
        first: shortest wait, seconds.
        longest: longest wait, seconds.

    Raises:
        ValueError: unless 0 < first <= longest.

    Examples:
        >>> rng = random.Random(0)
        >>> backoff = Backoff(first=1, longest=60)
        >>> [round(backoff.delay(attempt, rng)) for attempt in range(1, 9)]
        [2, 4, 6, 10, 24, 42, 54, 39]
    """

    first: float = 0.5
    longest: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest:
            raise ValueError(f"expected 0 < first <= longest, got {self.first:g} and {self.longest:g} seconds")

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Return the seconds to wait after a failure, a random value in the upper half of the doubled time.

        Args:
            attempt: number of the failure, from 1.
            rng: random generator for the jitter.
        """
        full = min(self.longest, self.first * 2 ** min(attempt, 60))
        return max(self.first, rng.uniform(full / 2, full))


@dataclass(frozen=True)
class DeliveryStatus:
    """The state of a delivery, for display and metrics, without credentials. Times are UTC, ISO 8601.

    Attributes:
        name: address of the receiver, without credentials.
        pending: messages that wait in the spool.
        in_memory: pending messages that are only in memory, so that a power cut would lose them.
        delivered: messages confirmed since the start.
        failed: messages that the receiver refused for good and that were set aside, since the start.
        dropped: messages dropped by the spool since the start.
        connected_since: time of the connection; None while the receiver cannot be reached, and, for HTTP, before its
            first answer.
        last_error, last_error_at: the most recent error and its time; both stay after recovery.
        disk_error: error of the disk that keeps messages in memory; None if the spool's disk works.
    """

    name: str
    pending: int = 0
    in_memory: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    connected_since: str | None = None
    last_error: str | None = None
    last_error_at: str | None = None
    disk_error: str | None = None


class DeliveryWorker:
    """A worker that sends the messages of a spool through a transport, in a thread that runs inside the ``with`` block.

    Args:
        spool: the opened spool; its ``with`` block must enclose the worker's.
        transport: the transport, owned and closed by the worker.
        backoff: waits between attempts.
        rng: random generator for the jitter of the waits.
    """

    def __init__(
        self, spool: Spool, transport: Transport, *, backoff: Backoff | None = None, rng: random.Random | None = None
    ) -> None:
        self._spool = spool
        self._transport = transport
        self._backoff = backoff or Backoff()
        self._rng = rng or random.Random()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._lock = threading.Lock()
        self._state = DeliveryStatus(transport.name)
        # Id of the message that failed last, and its number of failures in a row.
        self._tries = (0, 0)
        # Errors that were logged already, so that an outage of days does not fill the log. The errors of an outage are
        # forgotten when the outage is over.
        self._refusals: set[str] = set()
        self._outage: set[str] = set()

    def __enter__(self) -> DeliveryWorker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def send(self, message: Mapping[str, Any]) -> None:
        """Put a message into the spool, from which it is delivered. Thread-safe. The call waits only for the disk.

        Raises:
            SpoolError, ValueError: as for ``Spool.put``.
        """
        try:
            self._spool.put(message)
        finally:
            self._wake.set()

    @property
    def state(self) -> DeliveryStatus:
        """The current state of the delivery."""
        with self._lock:
            state = self._state
        spool = self._spool
        return replace(
            state,
            pending=len(spool),
            in_memory=spool.in_memory,
            dropped=spool.dropped,
            disk_error=spool.error,
        )

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Deliver waiting messages until one fails or the timeout ends, then disconnect and end the thread.

        Remaining messages stay in the spool. The call returns within ``timeout`` plus 2 seconds.

        Args:
            timeout: seconds for delivering the waiting messages.
        """
        if not self._stopping.is_set():
            self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self._transport.abort()
            self._thread.join(GRACE_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s: hangs and is left behind", self._transport.name)

    def _run(self) -> None:
        attempt, delivered = 0, 0
        try:
            while True:
                try:
                    sent = self._send_some()
                except Exception as error:
                    if self._first_is_to_blame(error):
                        continue
                    # A message delivered since the last failure resets the back-off.
                    attempt = attempt + 1 if self._state.delivered == delivered else 1
                    delivered = self._state.delivered
                    self._failed(error)
                    if self._stopping.is_set():
                        return
                    delay = self._backoff.delay(attempt, self._rng)
                    if isinstance(error, ReceiverUnreachable) and error.retry_after is not None:
                        delay = max(delay, min(MAX_RETRY_AFTER, error.retry_after))
                    self._stopping.wait(delay)
                    continue
                if attempt:
                    attempt = 0
                    self._outage.clear()
                    logger.info("%s: delivery works again", self._transport.name)
                if self._stopping.is_set() and (not sent or time.monotonic() > self._deadline):
                    return
                if not sent:
                    self._wake.wait(IDLE_SECONDS)
                    self._wake.clear()
        finally:
            self._transport.close()

    def _send_some(self) -> bool:
        """Deliver one batch. Return False if no message waits."""
        if self._transport.connect():
            self._reached()
        batch = self._spool.peek(self._transport.batch)
        waiting = iter(batch)
        try:
            for message in self._transport.deliver(batch) if batch else ():
                next(waiting)
                self._spool.acknowledge(message)
                self._reached(delivered=1)
                if time.monotonic() > self._deadline:
                    break
        except MessageRefused as error:
            self._spool.set_aside(next(waiting), str(error))
            self._reached(failed=1)
            self._note(error, "set aside", self._refusals)
        return bool(batch)

    def _first_is_to_blame(self, error: Exception) -> bool:
        """Set the first message aside if it alone keeps failing, so that it does not block the queue for good.

        If the receiver takes a later message between two failures of the first one, it is no outage. After an outage
        the first message is delivered as usual, because both attempts come at once. Several later messages are tried,
        because the next one may be of the same kind.

        Returns:
            True if the message was set aside.
        """
        if self._stopping.is_set():
            return False
        try:
            waiting = self._spool.peek(PROBES + 1)
        except SpoolError:
            return False
        if not waiting:
            return False
        first = waiting[0]
        self._tries = (first.id, self._tries[1] + 1 if self._tries[0] == first.id else 1)
        if self._tries[1] < MAX_TRIES or len(waiting) < 2:
            return False
        if not any(self._takes(later) for later in waiting[1:]) or self._takes(first):
            return False
        # The message that was taken is sent again later, in order, under the same key.
        self._spool.set_aside(first, str(error))
        self._reached(failed=1)
        self._note(error, f"set aside after {self._tries[1]} attempts, because later messages are delivered", set())
        return True

    def _takes(self, message: Message) -> bool:
        """Return True if the receiver confirms a message."""
        try:
            self._transport.connect()
            return list(self._transport.deliver([message])) == [message]
        except Exception:  # a refusal, an outage, or a bug: the usual way reports it
            return False

    def _reached(self, *, delivered: int = 0, failed: int = 0) -> None:
        """Record an answer of the receiver, with the number of messages that it confirmed or refused."""
        with self._lock:
            self._state = replace(
                self._state,
                delivered=self._state.delivered + delivered,
                failed=self._state.failed + failed,
                connected_since=self._state.connected_since or _now(),
            )

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._state = replace(self._state, connected_since=None)
        if not isinstance(error, (DeliveryError, SpoolError)):
            # A bug must not end the delivery. Its message may contain credentials, so report only its type.
            logger.debug("delivery", exc_info=error)
            error = ReceiverUnreachable(f"unexpected {type(error).__name__}")
        self._note(error, "retrying until it succeeds", self._outage)

    def _note(self, error: Exception, consequence: str, logged: set[str]) -> None:
        """Record an error, and log it unless it was logged already."""
        text = str(error)
        with self._lock:
            self._state = replace(self._state, last_error=text, last_error_at=_now())
        if text not in logged:
            logged.add(text)
            logger.warning("%s: %s; %s", self._transport.name, text, consequence)


def _now() -> str:
    return utc_iso(datetime.now(timezone.utc))
