"""Batches over streams: each stream gets its turn, and a batch waits for the others no longer than its deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from retina_edge.pipeline.stream import State, Stream
from retina_edge.sources.frames import Frame

Chosen = list[tuple[Stream, Frame]]


class Batcher:
    """Takes frames out of the slots of several streams.

    Args:
        streams: in whose slots frames wait.
        ready: the condition of all of them.
        size: frames of a batch at most.
        deadline: seconds that the first live frame of a batch waits for the others at most. Nobody waits for a stream
            that is offline. Frames of files are in no hurry: alone they wait for a full batch.
        max_age: seconds from its capture after which a live stream's frame is not worth detecting in; None for any.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        ready: threading.Condition,
        *,
        size: int,
        deadline: float,
        max_age: float | None = None,
    ) -> None:
        self._streams, self._ready = list(streams), ready
        self._size, self._deadline, self._max_age = size, deadline, max_age
        self._next = 0

    def take(self) -> Chosen | None:
        """The next batch, as soon as there is one; None when all streams have ended."""
        with self._ready:
            chosen: Chosen = []
            end = None
            while True:
                self._collect(chosen)
                now = time.monotonic()
                if end is None and any(stream.live for stream, _ in chosen):
                    end = now + self._deadline
                late = end is not None and now >= end
                if len(chosen) >= self._size or (chosen and (late or not self._expected(chosen))):
                    return chosen
                if not chosen and all(stream.slot.ended for stream in self._streams):
                    return None
                self._ready.wait(None if end is None else end - now)

    def _collect(self, chosen: Chosen) -> None:
        """Fills a batch from what waits, one frame of each stream in turn, from the one after the last served."""
        while len(chosen) < self._size:
            before = len(chosen)
            for step in range(len(self._streams)):
                number = (self._next + step) % len(self._streams)
                stream = self._streams[number]
                if (frame := self._fresh(stream)) is not None:
                    chosen.append((stream, frame))
                    self._next = number + 1
                    break
            if len(chosen) == before:
                return

    def _fresh(self, stream: Stream) -> Frame | None:
        while (frame := stream.slot.take()) is not None:
            if self._max_age is None or not stream.live or time.monotonic() - frame.captured <= self._max_age:
                return frame
            stream.expired += 1
        return None

    def _expected(self, chosen: Chosen) -> bool:
        """Whether a frame that the batch should wait for may come any moment.

        In a hurry the first of a stream that has none in the batch, else the next of any file.
        """
        there = {stream for stream, _ in chosen}
        hurry = any(stream.live for stream in there)
        return any(
            stream.state is State.ONLINE
            and not stream.slot.ended
            and (stream not in there if hurry else not stream.live)
            for stream in self._streams
        )
