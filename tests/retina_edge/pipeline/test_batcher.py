"""Batches over streams: fair, full where nobody is in a hurry, on time where somebody is."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from retina_edge.pipeline.batcher import Batcher
from retina_edge.pipeline.mailbox import Mailbox
from retina_edge.pipeline.stream import State, Stream
from tests.made_streams import Made


def waiting(name: str, ready: threading.Condition, count: int, *, live: bool = False, size: int = 40) -> Stream:
    """A stream that is online, with so many frames in its mailbox."""
    mailbox = Mailbox(ready, keep_all=not live, size=size)
    stream = Stream(name, partial(Made, name), name, live, mailbox, State.ONLINE)
    for frame in Made(name, count=count):
        stream.mailbox.put(frame)
    return stream


def test_a_batch_is_shared_fairly() -> None:
    ready = threading.Condition()
    streams = [waiting(name, ready, 40) for name in ("a", "b", "c")]
    batcher = Batcher(streams, ready, size=4, deadline=10)
    order: list[str] = []
    for _ in range(30):
        chosen = batcher.take()
        assert chosen is not None
        assert len(chosen) == 4
        order += [stream.name for stream, _ in chosen]
    for end in range(1, 121):
        counts = [order[:end].count(name) for name in ("a", "b", "c")]
        assert max(counts) - min(counts) <= 1


def test_a_file_alone_waits_for_full_batches() -> None:
    ready = threading.Condition()
    file, camera = waiting("file", ready, 3, size=4), waiting("camera", ready, 0, live=True)
    batcher = Batcher([file, camera], ready, size=4, deadline=0.01)
    frames = list(Made(count=4))
    start = time.monotonic()
    threading.Timer(0.2, lambda: [file.mailbox.put(frame) for frame in frames]).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file"] * 4
    assert time.monotonic() - start >= 0.2
    threading.Timer(0.1, file.mailbox.close).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file"] * 3  # no more come


@pytest.mark.parametrize(("state", "seconds"), [(State.ONLINE, 0.3), (State.OFFLINE, 0.1), (State.ENDED, 0.1)])
def test_a_cameras_frame_waits_for_the_others_no_longer_than_the_deadline(state: State, seconds: float) -> None:
    ready = threading.Condition()
    file, camera, other = waiting("file", ready, 1), *(waiting(name, ready, 0, live=True) for name in ("one", "two"))
    other.state = state
    batcher = Batcher([file, camera, other], ready, size=4, deadline=0.2)
    (frame,) = Made(count=1)
    start = time.monotonic()
    threading.Timer(0.1, camera.mailbox.put, [frame]).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file", "one"]
    assert seconds <= time.monotonic() - start < seconds + 0.15
