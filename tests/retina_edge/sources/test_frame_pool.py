"""Memory of frames that nobody holds is used again, and never that of a frame that somebody holds."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from retina_edge.sources.frame_pool import LIMIT, FramePool
from retina_edge.sources.video_source import VideoSource
from tests.media import write_video


def image(value: int = 0, *, height: int = 4) -> np.ndarray:
    return np.full((height, 6, 3), value, np.uint8)


def test_what_nobody_holds_is_used_again() -> None:
    pool = FramePool()
    assert pool.take() is None
    held = image(1)
    pool.give(held)
    assert pool.take() is None
    address = held.ctypes.data
    del held
    again = pool.take()
    assert again is not None
    assert again.ctypes.data == address
    assert pool.take() is None  # it is held once more
    pool.give(again)
    del again
    assert pool.take() is not None


def test_a_view_holds_its_image() -> None:
    pool = FramePool()
    pool.give(image(1))
    whole = pool.take()
    assert whole is not None
    corner, memory = whole[:2, :2], whole.data
    del whole
    assert pool.take() is None
    del corner
    assert pool.take() is None
    del memory
    assert pool.take() is not None


def test_another_thread_holds_it() -> None:
    pool, ready, go_on = FramePool(), threading.Event(), threading.Event()
    pool.give(image(1))

    def hold(_image: object) -> None:
        ready.set()
        go_on.wait(10)

    thread = threading.Thread(target=hold, args=(pool.take(),))
    thread.start()
    assert ready.wait(10)
    assert pool.take() is None
    go_on.set()
    thread.join()
    del thread
    assert pool.take() is not None


def test_it_keeps_no_more_than_its_limit_and_one_size() -> None:
    pool = FramePool()
    for number in range(2 * LIMIT):
        pool.give(image(number))
    taken = []
    while (found := pool.take()) is not None:
        taken.append(found)
    assert [int(found[0, 0, 0]) for found in taken] == list(range(LIMIT))
    taken.clear()
    found = None
    pool.give(image(9, height=8))
    larger = pool.take()
    assert larger is not None
    assert larger.shape == (8, 6, 3)
    assert pool.take() is None


def test_frames_of_a_video_that_are_held_stay_what_they_are(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=40)
    with VideoSource(video) as source:
        held = [frame.image for frame in source]
    with VideoSource(video) as source:
        passing = []
        addresses = set()
        for frame in source:
            passing.append(frame.image.copy())
            addresses.add(frame.image.ctypes.data)
    np.testing.assert_array_equal(held, passing)
    assert len({image.ctypes.data for image in held}) == 40
    assert len(addresses) <= 3  # that used now, and that before
