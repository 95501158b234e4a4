"""The newest frames of one stream, and the clips that are cut from them."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.tracking.events import Event
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.tracker import Tracks

# Longest clip of events that follow one another, seconds; longer only if ``before`` and ``after`` together are.
MAX_CLIP_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class ClipFrame:
    """A frame, with what is drawn into it when a clip is written.

    Attributes:
        time: seconds, by the clock of the stream.
        picture: the frame without drawings, BGR: pixels, uint8 [height, width, 3], or a JPEG.
        detections: detections in pixels of the picture.
        tracks, tallies: as in ``Result``.
    """

    time: float
    picture: BgrImage | bytes
    detections: Detections
    tracks: Tracks | None
    tallies: tuple[Tally, ...]

    @property
    def bytes(self) -> int:
        """Memory that the frame takes, without the small objects around the arrays."""
        found, picture = self.detections, self.picture
        size = len(picture) if isinstance(picture, bytes) else picture.nbytes
        return size + found.boxes.nbytes + found.scores.nbytes + found.labels.nbytes + 8 * len(found)

    def pixels(self) -> BgrImage:
        """Return the picture as pixels, uint8 [height, width, 3], BGR. Do not modify them."""
        if not isinstance(self.picture, bytes):
            return self.picture
        decoded = cv2.imdecode(np.frombuffer(self.picture, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None  # the JPEG is our own
        return decoded.astype(np.uint8, copy=False)


@dataclass(eq=False)
class Clip:
    """A clip that is being made.

    Attributes:
        name: file name.
        first: time of the first event by the clock of the stream, seconds.
        begin, end: times of the first and the last frame that belong to the clip, seconds.
        events: the events that the clip shows.
        next: number of the first frame that was not taken yet.
        lost: frames that memory was too short for.
        ended: True if the stream has no more frames for the clip.
    """

    name: str
    first: float
    begin: float
    end: float
    events: list[Event] = field(default_factory=list)
    next: int = 0
    lost: int = 0
    ended: bool = False

    def needs(self, number: int, time: float) -> bool:
        """True if a frame belongs to the clip and was not taken yet."""
        return number >= self.next and self.begin <= time <= self.end


class ClipRing:
    """The newest frames of a stream, within a bound of memory. Not thread-safe.

    A frame is kept for ``before`` seconds, and until the clips that need it have taken it. If the frames exceed
    ``max_bytes``, the oldest ones go: a clip then begins later, or lacks frames.

    Args:
        before, after: seconds of a clip before its first event and after its last one.
        max_bytes: largest size of all frames together; one frame is always kept.

    Examples:
        >>> ring = ClipRing(before=1, after=1, max_bytes=1000)
        >>> for time in range(5):
        ...     ring.add(ClipFrame(time, bytes(10), Detections.empty((), ()), None, ()))
        >>> clip = ring.clip_at(4.0, "a.webm")
        >>> [frame.time for frame in ring.take(clip, 8)]
        [3, 4]
    """

    def __init__(self, *, before: float, after: float, max_bytes: int) -> None:
        self._before, self._after, self._max_bytes = before, after, max_bytes
        self._frames: deque[ClipFrame] = deque()
        # Number of the first frame in the ring.
        self._first = 0
        # Time of the newest frame that went because memory was short.
        self._cut = -math.inf
        self.bytes = 0
        self.clips: list[Clip] = []

    def clip_at(self, time: float, name: str) -> Clip:
        """Return the clip for an event: the newest one, extended, if the event falls into it, or else a new one.

        Args:
            time: time of the event.
            name: name of a new clip.
        """
        longest = max(MAX_CLIP_SECONDS, self._before + self._after)
        if self.clips:
            clip = self.clips[-1]
            end = time + self._after
            if not clip.ended and clip.first <= time <= clip.end and end - clip.begin <= longest:
                clip.end = max(clip.end, end)
                return clip
        clip = Clip(name, time, time - self._before, time + self._after)
        if clip.begin <= self._cut:
            clip.lost = 1  # at least; the clip begins late
        self.clips.append(clip)
        return clip

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def waiting(self) -> int:
        """Number of frames that clips have not taken yet."""
        return sum(self._needed(index) for index in range(len(self._frames)))

    def has_room(self, size: int) -> bool:
        """True if a frame of ``size`` bytes can be added without taking a frame from a clip."""
        return self.bytes + size <= self._max_bytes or not self._frames or not self._needed(0)

    def add(self, frame: ClipFrame) -> None:
        """Add the newest frame, and discard those that are no longer needed, or that memory is too short for."""
        self._frames.append(frame)
        self.bytes += frame.bytes
        while len(self._frames) > 1:
            oldest = self._frames[0]
            if self.bytes > self._max_bytes:
                self._cut = max(self._cut, oldest.time)
                for clip in self.clips:
                    clip.lost += clip.needs(self._first, oldest.time)
            elif frame.time - oldest.time <= self._before or self._needed(0):
                break
            self._frames.popleft()
            self._first += 1
            self.bytes -= oldest.bytes
        for clip in self.clips:
            clip.ended = clip.ended or frame.time > clip.end

    def end(self) -> None:
        """End the clips, because the stream has no more frames."""
        for clip in self.clips:
            clip.ended = True

    def take(self, clip: Clip, count: int) -> list[ClipFrame]:
        """Take the next frames of a clip, at most ``count``."""
        taken: list[ClipFrame] = []
        start = max(0, clip.next - self._first)
        for index in range(start, len(self._frames)):
            if len(taken) == count:
                break
            frame = self._frames[index]
            if clip.needs(self._first + index, frame.time):
                taken.append(frame)
            clip.next = self._first + index + 1
        return taken

    def _needed(self, index: int) -> bool:
        frame = self._frames[index]
        return any(clip.needs(self._first + index, frame.time) for clip in self.clips)
