"""Where a stream's frames wait for the detector: one place for the newest of a live stream, a queue for a file."""

from __future__ import annotations

import threading
from collections import deque

from retina_edge.sources.frames import Frame

# Of a file: enough to even out slow frames, few enough for large ones.
QUEUE_SIZE = 4


class Slot:
    """Filled by one thread, emptied by another; never holds more than its bound.

    Args:
        ready: told of every change, but of a file's frames only when no more can wait; one condition for the slots of
            all streams, so that one thread can wait for any.
        keeps_all: filling it waits for room; else it holds one frame, and the newest wins.
        size: frames at most, where all are kept.
        limit: frames that are taken out before it closes by itself; None for no such end.

    Attributes:
        taken: frames that were taken out.
        dropped: frames that were overwritten, none of which anybody saw.
    """

    def __init__(
        self, ready: threading.Condition, *, keeps_all: bool, size: int = QUEUE_SIZE, limit: int | None = None
    ) -> None:
        self.keeps_all = keeps_all
        self.taken = 0
        self.dropped = 0
        self._ready, self._size, self._limit = ready, size, limit
        self._frames: deque[Frame] = deque()
        self._closed = False

    def put(self, frame: Frame) -> bool:
        """Takes a frame; false once the slot is closed, and the frame is nobody's."""
        with self._ready:
            if self.keeps_all:
                self._ready.wait_for(lambda: self._closed or len(self._frames) < self._size)
            if self._closed:
                return False
            if not self.keeps_all and self._frames:
                self._frames.clear()
                self.dropped += 1
            self._frames.append(frame)
            # A file is in no hurry: to wake the other thread for each frame is much of what the pipeline costs.
            if not self.keeps_all or len(self._frames) >= self._size:
                self._ready.notify_all()
        return True

    def take(self) -> Frame | None:
        """The oldest frame that waits; None where none does. With the condition held."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self.taken += 1
        if self.taken == self._limit:
            self._frames.clear()
            self._closed = True
        self._ready.notify_all()
        return frame

    @property
    def closed(self) -> bool:
        """Whether nothing will come."""
        return self._closed

    @property
    def ended(self) -> bool:
        """Whether nothing waits and nothing will come. With the condition held."""
        return self._closed and not self._frames

    def close(self) -> None:
        """No more frames come; those that wait can still be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
