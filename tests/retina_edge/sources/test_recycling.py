"""Memory of frames that nobody holds is used again, and never that of a frame that somebody holds."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from retina_edge.sources.recycling import LIMIT, Recycler
from retina_edge.sources.video import VideoSource
from tests.media import write_video


def image(value: int = 0, *, height: int = 4) -> np.ndarray:
    return np.full((height, 6, 3), value, np.uint8)


def test_what_nobody_holds_is_used_again() -> None:
    recycler = Recycler()
    assert recycler.take() is None
    held = image(1)
    recycler.give(held)
    assert recycler.take() is None
    address = held.ctypes.data
    del held
    again = recycler.take()
    assert again is not None
    assert again.ctypes.data == address
    assert recycler.take() is None  # it is held once more
    recycler.give(again)
    del again
    assert recycler.take() is not None


def test_a_view_holds_its_image() -> None:
    recycler = Recycler()
    recycler.give(image(1))
    whole = recycler.take()
    assert whole is not None
    corner, memory = whole[:2, :2], whole.data
    del whole
    assert recycler.take() is None
    del corner
    assert recycler.take() is None
    del memory
    assert recycler.take() is not None


def test_another_thread_holds_it() -> None:
    recycler, ready, go_on = Recycler(), threading.Event(), threading.Event()
    recycler.give(image(1))

    def hold(_image: object) -> None:
        ready.set()
        go_on.wait(10)

    thread = threading.Thread(target=hold, args=(recycler.take(),))
    thread.start()
    assert ready.wait(10)
    assert recycler.take() is None
    go_on.set()
    thread.join()
    del thread
    assert recycler.take() is not None


def test_it_keeps_no_more_than_its_limit_and_one_size() -> None:
    recycler = Recycler()
    for number in range(2 * LIMIT):
        recycler.give(image(number))
    taken = []
    while (found := recycler.take()) is not None:
        taken.append(found)
    assert [int(found[0, 0, 0]) for found in taken] == list(range(LIMIT))
    taken.clear()
    found = None
    recycler.give(image(9, height=8))
    larger = recycler.take()
    assert larger is not None
    assert larger.shape == (8, 6, 3)
    assert recycler.take() is None


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
