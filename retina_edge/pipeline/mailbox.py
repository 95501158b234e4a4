"""The buffer of frames that wait for the detector: the newest frame of a live stream, or a queue for a file."""

from __future__ import annotations

import threading
from collections import deque

from retina_edge.sources.frames import Frame

# Frames of a file that may wait: enough to compensate for slow frames, few enough to keep large frames in memory.
QUEUE_SIZE = 4


class Mailbox:
    """A bounded buffer that one thread fills and another one empties.

    Args:
        changed: condition to notify of changes. All mailboxes of a pipeline share it, so that one thread can wait for
            any of them. The frames of a file are announced only when the mailbox is full.
        keep_all: True if ``put`` waits for room; False if the mailbox holds one frame and the newest frame wins.
        size: largest number of frames, if ``keep_all`` is True.
        limit: number of taken frames after which the mailbox closes itself; None for no limit.

    Attributes:
        taken: frames that were taken out.
        dropped: frames that were overwritten before they were taken.

    Examples:
        >>> import numpy as np
        >>> changed = threading.Condition()
        >>> mailbox = Mailbox(changed, keep_all=False)
        >>> for index in range(3):
        ...     _ = mailbox.put(Frame(np.zeros((48, 64, 3), np.uint8), index, None, "camera 0"))
        >>> with changed:
        ...     mailbox.take().index, mailbox.dropped
        (2, 2)
    """

    def __init__(
        self, changed: threading.Condition, *, keep_all: bool, size: int = QUEUE_SIZE, limit: int | None = None
    ) -> None:
        self.keep_all = keep_all
        self.taken = 0
        self.dropped = 0
        self._changed, self._size, self._limit = changed, size, limit
        self._frames: deque[Frame] = deque()
        self._closed = False

    def put(self, frame: Frame) -> bool:
        """Add a frame. Return False if the mailbox is closed and the frame was not taken."""
        with self._changed:
            if self.keep_all:
                self._changed.wait_for(lambda: self._closed or len(self._frames) < self._size)
            if self._closed:
                return False
            if not self.keep_all and self._frames:
                self._frames.clear()
                self.dropped += 1
            self._frames.append(frame)
            # A file is not urgent, and waking the other thread for each frame would cost the pipeline much of its time.
            if not self.keep_all or len(self._frames) >= self._size:
                self._changed.notify_all()
        return True

    def take(self) -> Frame | None:
        """Return the oldest waiting frame, or None. The caller must hold the condition."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self.taken += 1
        if self.taken == self._limit:
            self._frames.clear()
            self._closed = True
        self._changed.notify_all()
        return frame

    @property
    def closed(self) -> bool:
        """True if no more frames can be put in."""
        return self._closed

    @property
    def ended(self) -> bool:
        """True if the mailbox is closed and empty. The caller must hold the condition."""
        return self._closed and not self._frames

    def close(self) -> None:
        """Refuse further frames; waiting frames can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
