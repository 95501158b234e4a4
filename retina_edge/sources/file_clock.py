"""The times of a file's frames, which depend only on the file and never on the clock of the machine."""

from __future__ import annotations

# Longest step back, in seconds, that is disorder between neighboring frames. A longer one is a second recording in the
# same file.
MAX_DISORDER = 1.0
# OpenCV before 5 reports about -1e17 for a stream that has no times. A year has 3e7 seconds.
MAX_POSITION = 1e9


class FileClock:
    """The times of frames in seconds since the first one, from the positions that a decoder reports.

    The times are the differences of the positions, and never decrease. A frame without a position comes one frame
    interval after the frame before it, and so does the first frame after a restart, where recordings were joined. A
    frame that is a little out of order has the time of the frame before it.

    Args:
        fps: frames per second, for frames without a position.

    Attributes:
        time: time of the newest frame, in seconds; 0 before the first one.
        longest: longest time between two frames so far, in seconds.

    Examples:
        >>> clock = FileClock(fps=25)
        >>> [round(clock.tick(position), 3) for position in (7.0, 7.1, 7.3, None, 7.4)]
        [0.0, 0.1, 0.3, 0.34, 0.4]
    """

    def __init__(self, *, fps: float) -> None:
        self.time = 0.0
        self.longest = 0.0
        self._interval = 1 / fps
        # Position of the first frame.
        self._origin: float | None = None

    def tick(self, position: float | None) -> float:
        """Return the time of the next frame.

        Args:
            position: seconds from any fixed moment; None or 0 if the decoder knows none. OpenCV reports 0 in this case.
        """
        if position is not None and not abs(position) < MAX_POSITION:
            position = None
        if self._origin is None:
            self._origin = position or 0.0
            return 0.0
        time = self.time + self._interval
        if position is not None and (position != 0 or position - self._origin > self.time):
            if self.time - (position - self._origin) > MAX_DISORDER:
                self._origin = position - time
            else:
                time = max(self.time, position - self._origin)
        self.longest = max(self.longest, time - self.time)
        self.time = time
        return time
