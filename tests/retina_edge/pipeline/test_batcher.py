"""Batches over streams: each stream gets its share, files wait for full batches, live streams for the deadline."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from retina_edge.pipeline.batcher import Batcher
from retina_edge.pipeline.mailbox import Mailbox
from retina_edge.pipeline.stream import State, Stream
from tests.made_streams import Made


def online_stream(name: str, ready: threading.Condition, count: int, *, live: bool = False, size: int = 40) -> Stream:
    """Return a stream that is online, with ``count`` frames in its mailbox."""
    mailbox = Mailbox(ready, keep_all=not live, size=size)
    stream = Stream(name, partial(Made, name), name, live, mailbox, State.ONLINE)
    for frame in Made(name, count=count):
        stream.mailbox.put(frame)
    return stream


def test_a_batch_is_shared_fairly() -> None:
    ready = threading.Condition()
    streams = [online_stream(name, ready, 40) for name in ("a", "b", "c")]
    batcher = Batcher(streams, ready, size=4, deadline=10)
    order: list[str] = []
    for _ in range(30):
        batch = batcher.take()
        assert batch is not None
        assert len(batch) == 4
        order += [stream.name for stream, _ in batch]
    for end in range(1, 121):
        counts = [order[:end].count(name) for name in ("a", "b", "c")]
        assert max(counts) - min(counts) <= 1


def test_frames_of_a_file_alone_wait_for_full_batches() -> None:
    ready = threading.Condition()
    file, camera = online_stream("file", ready, 3, size=4), online_stream("camera", ready, 0, live=True)
    batcher = Batcher([file, camera], ready, size=4, deadline=0.01)
    frames = list(Made(count=4))
    start = time.monotonic()
    threading.Timer(0.2, lambda: [file.mailbox.put(frame) for frame in frames]).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file"] * 4
    assert time.monotonic() - start >= 0.2
    threading.Timer(0.1, file.mailbox.close).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file"] * 3  # the file has ended


@pytest.mark.parametrize(("state", "seconds"), [(State.ONLINE, 0.3), (State.OFFLINE, 0.1), (State.ENDED, 0.1)])
def test_a_live_frame_waits_for_other_streams_no_longer_than_the_deadline(state: State, seconds: float) -> None:
    ready = threading.Condition()
    file = online_stream("file", ready, 1)
    camera, other = (online_stream(name, ready, 0, live=True) for name in ("one", "two"))
    other.state = state
    batcher = Batcher([file, camera, other], ready, size=4, deadline=0.2)
    (frame,) = Made(count=1)
    start = time.monotonic()
    threading.Timer(0.1, camera.mailbox.put, [frame]).start()
    assert [stream.name for stream, _ in batcher.take() or []] == ["file", "one"]
    assert seconds <= time.monotonic() - start < seconds + 0.15
