"""Takes messages from a spool to their receiver, in order, each until it is confirmed.

At least once: what the receiver confirmed leaves the spool, all else is sent again, after a while, after a restart too.
A message that the receiver refuses for good is set aside in the spool, so that it does not hold up the others.
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
from retina_edge.delivery.spool_file import SpoolError
from retina_edge.delivery.transport import DeliveryError, MessageRefused, ReceiverUnreachable, Transport
from retina_edge.system.timestamps import utc_iso

# At the end what waits is sent for so long; what is left stays in the spool.
STOP_SECONDS = 5.0
# Until a thread that was told to give up must have ended.
GRACE_SECONDS = 2.0
# How often an idle connection is looked at.
IDLE_SECONDS = 1.0
# A receiver's wish to be left alone for longer is not followed: a mistake there would look like a loss here.
MAX_RETRY_AFTER = 900.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """Waiting times that double, spread so that many machines do not come back at once.

    Attributes:
        first: seconds; never less.
        longest: seconds; never more.
    """

    first: float = 0.5
    longest: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest:
            raise ValueError(f"expected 0 < first <= longest, got {self.first:g} and {self.longest:g} seconds")

    def delay(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after failure number ``attempt``, from 1: the upper half of the doubled time."""
        full = min(self.longest, self.first * 2 ** min(attempt, 60))
        return max(self.first, rng.uniform(full / 2, full))


@dataclass(frozen=True)
class DeliveryStatus:
    """How it goes, for people and for metrics; nothing in it is secret. Times are UTC, ISO 8601.

    Attributes:
        name: the receiver's address.
        pending: messages that wait in the spool.
        in_memory: those among them that a power cut would lose.
        delivered: confirmed since the start.
        failed: refused for good and set aside, since the start.
        dropped: given up by the spool, since the start.
        connected_since: None while the receiver cannot be reached, and before the first answer over HTTP.
        last_error, last_error_at: what went wrong most recently; stays when it has been mended.
        disk_error: why messages wait in memory; None when the spool's disk is well.
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
    """A thread between a spool and a transport, for the time of its ``with`` block.

    Args:
        spool: inside its own ``with`` block, which must enclose this one.
        transport: belongs to this delivery from now on, which closes it.
        backoff: between attempts.
        rng: for the spread of the waiting times.
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
        # What the log has said: refusals for good, an outage until it is over; one of days would fill it.
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
        """Puts a message into the spool, from where it will be delivered. From any thread; waits for the disk only.

        Raises:
            SpoolError, ValueError: as ``Spool.put``.
        """
        try:
            self._spool.put(message)
        finally:
            self._wake.set()

    @property
    def state(self) -> DeliveryStatus:
        """How it goes, at this moment."""
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
        """Delivers what waits for at most ``timeout`` seconds and as long as nothing fails, says goodbye, and ends the
        thread. Returns within ``timeout`` and 2 seconds; the rest stays in the spool."""
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
            logger.warning("%s: hangs; left behind", self._transport.name)

    def _run(self) -> None:
        attempt, delivered = 0, 0
        try:
            while True:
                try:
                    sent = self._send_some()
                except Exception as error:
                    # Progress starts the count anew.
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
                    logger.info("%s: well again", self._transport.name)
                if self._stopping.is_set() and (not sent or time.monotonic() > self._deadline):
                    return
                if not sent:
                    self._wake.wait(IDLE_SECONDS)
                    self._wake.clear()
        finally:
            self._transport.close()

    def _send_some(self) -> bool:
        """Delivers what the transport takes at once; false when nothing waits."""
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

    def _reached(self, *, delivered: int = 0, failed: int = 0) -> None:
        """The receiver is there, and has confirmed or refused so many."""
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
            # A mistake of ours ends no delivery. Its text may hold anything, so only its place is told.
            logger.debug("delivery", exc_info=error)
            error = ReceiverUnreachable(f"unexpected {type(error).__name__}")
        self._note(error, "tried again until it succeeds", self._outage)

    def _note(self, error: Exception, consequence: str, said: set[str]) -> None:
        text = str(error)
        with self._lock:
            self._state = replace(self._state, last_error=text, last_error_at=_now())
        if text not in said:
            said.add(text)
            logger.warning("%s: %s; %s", self._transport.name, text, consequence)


def _now() -> str:
    return utc_iso(datetime.now(timezone.utc))
