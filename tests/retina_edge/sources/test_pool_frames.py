"""Readers decode into frames of a pool, and never into a frame that somebody still holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.core.frame_pool import FramePool, Memory
from retina_edge.sources.flight import Flight
from retina_edge.sources.frames import Source
from retina_edge.sources.gstreamer_source import GStreamerSource
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.video_source import VideoSource
from tests.media import write_patch_image, write_video


class Pin:
    """A hold of no GPU."""

    device: int | None = None

    def __init__(self, _memory: Memory) -> None: ...

    def free(self) -> None: ...


def pipeline(width: int) -> GStreamerSource:
    return GStreamerSource(f"videotestsrc num-buffers=3 ! video/x-raw,width={width},height=48")


READERS: dict[str, Callable[[Path], Source]] = {
    "video": lambda folder: VideoSource(write_video(folder / "v.mp4", count=3)),
    "flight": lambda _: Flight(np.zeros((625, 1900, 3), np.uint8), frames=3),
    "pictures": lambda folder: ImageSource([write_patch_image(folder / f"{n}.png") for n in range(3)]),
    "pipeline": lambda _: pipeline(64),
    "pipeline whose rows have gaps": lambda _: pipeline(63),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_fills_the_frames_of_a_pinned_pool(reader: str, tmp_path: Path) -> None:
    if reader.startswith("pipeline") and shutil.which("gst-launch-1.0") is None:
        pytest.skip("no gst-launch-1.0: sudo apt-get install gstreamer1.0-tools")
    with READERS[reader](tmp_path) as source:
        expected = [frame.image.copy() for frame in source]
    addresses = set()
    with READERS[reader](tmp_path) as source:
        source.pool = FramePool(Pin)
        for number, frame in enumerate(source):
            assert source.pool.block_of(frame.image) is not None
            addresses.add(frame.image.ctypes.data)
            np.testing.assert_array_equal(frame.image, expected[number])
    assert number == 2
    assert len(addresses) == 2  # the loop holds one frame while the next one is decoded


def test_pictures_are_not_copied_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "copyto", lambda *_: pytest.fail("a picture is copied"))
    with ImageSource([write_patch_image(tmp_path / "a.png")]) as source:
        assert len(list(source)) == 1


def test_kept_frames_of_a_video_are_never_overwritten(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=40)
    with VideoSource(video) as source:
        kept = [frame.image for frame in source]
    with VideoSource(video) as source:
        copies = [frame.image.copy() for frame in source]
    np.testing.assert_array_equal(kept, copies)
    assert len({image.ctypes.data for image in kept}) == 40
