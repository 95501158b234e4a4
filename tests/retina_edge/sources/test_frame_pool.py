"""The frame pool reuses the memory of frames without references, and never that of a frame still in use."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from retina_edge.sources.frame_pool import MAX_IMAGES, FramePool
from retina_edge.sources.video_source import VideoSource
from tests.media import write_video


def image(value: int = 0, *, height: int = 4) -> np.ndarray:
    return np.full((height, 6, 3), value, np.uint8)


def test_an_image_without_references_is_reused() -> None:
    pool = FramePool()
    assert pool.take() is None
    held = image(1)
    pool.add(held)
    assert pool.take() is None
    address = held.ctypes.data
    del held
    reused = pool.take()
    assert reused is not None
    assert reused.ctypes.data == address
    assert pool.take() is None  # the image is referenced again
    pool.add(reused)
    del reused
    assert pool.take() is not None


def test_a_view_keeps_its_image_in_use() -> None:
    pool = FramePool()
    pool.add(image(1))
    whole = pool.take()
    assert whole is not None
    corner, memory = whole[:2, :2], whole.data
    del whole
    assert pool.take() is None
    del corner
    assert pool.take() is None
    del memory
    assert pool.take() is not None


def test_a_reference_in_another_thread_keeps_an_image_in_use() -> None:
    pool, started, release = FramePool(), threading.Event(), threading.Event()
    pool.add(image(1))

    def keep(_image: object) -> None:
        started.set()
        release.wait(10)

    thread = threading.Thread(target=keep, args=(pool.take(),))
    thread.start()
    assert started.wait(10)
    assert pool.take() is None
    release.set()
    thread.join()
    del thread
    assert pool.take() is not None


def test_the_pool_is_limited_to_a_number_of_images_and_to_one_size() -> None:
    pool = FramePool()
    for number in range(2 * MAX_IMAGES):
        pool.add(image(number))
    taken = []
    while (reused := pool.take()) is not None:
        taken.append(reused)
    assert [int(reused[0, 0, 0]) for reused in taken] == list(range(MAX_IMAGES))
    taken.clear()
    reused = None
    pool.add(image(9, height=8))
    larger = pool.take()
    assert larger is not None
    assert larger.shape == (8, 6, 3)
    assert pool.take() is None


def test_kept_frames_of_a_video_are_never_overwritten(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=40)
    with VideoSource(video) as source:
        kept = [frame.image for frame in source]
    with VideoSource(video) as source:
        copies = []
        addresses = set()
        for frame in source:
            copies.append(frame.image.copy())
            addresses.add(frame.image.ctypes.data)
    np.testing.assert_array_equal(kept, copies)
    assert len({image.ctypes.data for image in kept}) == 40
    assert len(addresses) <= 3  # the current frame's memory, and that of earlier ones
