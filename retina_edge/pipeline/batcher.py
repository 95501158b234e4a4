"""Batches of frames from several streams: each stream gets its turn, and no batch waits beyond its deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from retina_edge.pipeline.stream import State, Stream
from retina_edge.sources.frames import Frame

# Frames of one batch, each with its stream.
FrameBatch = list[tuple[Stream, Frame]]


class Batcher:
    """A batcher that takes frames out of the mailboxes of several streams and groups them.

    Args:
        streams: the streams to take frames from.
        changed: the condition that all their mailboxes share.
        size: largest number of frames in a batch.
        deadline: seconds that the first live frame of a batch waits for other frames. A batch never waits for a stream
            that is offline. A batch without live frames waits until it is full, because files are not urgent.
        max_age: seconds from capture after which a live stream's frame is dropped; None for no limit.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> from retina_edge.sources.stream_names import named_sources
        >>> changed, sources = threading.Condition(), named_sources([f"north={FOREST}", f"south={FOREST}"])
        >>> streams = [Stream.of(name, source, changed) for name, source in sources.items()]
        >>> for stream in streams:
        ...     for frame in stream.open():
        ...         _ = stream.mailbox.put(frame)
        >>> [stream.name for stream, frame in Batcher(streams, changed, size=2, deadline=0.01).take()]
        ['north', 'south']
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        changed: threading.Condition,
        *,
        size: int,
        deadline: float,
        max_age: float | None = None,
    ) -> None:
        self._streams, self._changed = list(streams), changed
        self._size, self._deadline, self._max_age = size, deadline, max_age
        self._next = 0

    def take(self) -> FrameBatch | None:
        """Wait for the next batch and return it; None when all streams have ended."""
        with self._changed:
            batch: FrameBatch = []
            end = None
            while True:
                self._fill(batch)
                now = time.monotonic()
                if end is None and any(stream.live for stream, _ in batch):
                    end = now + self._deadline
                late = end is not None and now >= end
                if len(batch) >= self._size or (batch and (late or not self._more_expected(batch))):
                    return batch
                if not batch and all(stream.mailbox.ended for stream in self._streams):
                    return None
                self._changed.wait(None if end is None else end - now)

    def _fill(self, batch: FrameBatch) -> None:
        """Fill a batch with waiting frames, one of each stream in turn, starting after the stream served last."""
        while len(batch) < self._size:
            before = len(batch)
            for step in range(len(self._streams)):
                number = (self._next + step) % len(self._streams)
                stream = self._streams[number]
                if (frame := self._take_fresh(stream)) is not None:
                    batch.append((stream, frame))
                    self._next = number + 1
                    break
            if len(batch) == before:
                return

    def _take_fresh(self, stream: Stream) -> Frame | None:
        """Return the next frame of a stream, or None; drop live frames that are too old."""
        while (frame := stream.mailbox.take()) is not None:
            if self._max_age is None or not stream.live or time.monotonic() - frame.captured <= self._max_age:
                return frame
            stream.expired += 1
        return None

    def _more_expected(self, batch: FrameBatch) -> bool:
        """True if the batch should wait for another frame.

        A batch with a live frame waits for the first frame of a stream that has no frame in it yet. Any other batch
        waits for another frame of any file.
        """
        present = {stream for stream, _ in batch}
        urgent = any(stream.live for stream in present)
        return any(
            stream.state is State.ONLINE
            and not stream.mailbox.ended
            and (stream not in present if urgent else not stream.live)
            for stream in self._streams
        )
