"""The processor copies no pixel between the decoder and the upload, counted in whole pipelines on stand-ins."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engines.core import letterbox
from retina_edge.assets import MODEL
from retina_edge.detector import Detector
from retina_edge.sources import gst_launch
from retina_edge.tiling import TiledDetector
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World
from tests.media import write_video

FRAMES, SIZE = 5, (120, 160)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The address to which each frame is decoded. Packing a frame, or copying a decoded one, is an error."""
    addresses: list[int] = []

    class Capture:  # not a subclass, because OpenCV frees the objects of subclasses wrongly
        def __init__(self, *arguments: Any) -> None:
            self._capture = real(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._capture, name)

        def retrieve(self, image: Any = None) -> Any:
            ok, image = self._capture.retrieve(image)
            addresses.append(image.ctypes.data)
            return ok, image

    def read_into(self: Any, view: memoryview, *arguments: Any) -> None:
        if len(view) == SIZE[0] * SIZE[1] * 3:
            addresses.append(np.frombuffer(view, np.uint8).ctypes.data)
        from_pipe(self, view, *arguments)

    real = cv2.VideoCapture
    from_pipe = gst_launch.GstLaunch._read_into
    monkeypatch.setattr(gst_launch.GstLaunch, "_read_into", read_into)
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(np, "copyto", lambda *_: pytest.fail("a decoded frame is copied"))
    monkeypatch.setattr("engines.runner.frame_memory.Packer.pack", lambda *_: pytest.fail("a frame is packed"))
    return addresses


def video(folder: Path) -> str:
    return str(write_video(folder / "v.mp4", count=FRAMES, size=SIZE))


def pipeline(_folder: Path) -> str:
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("no gst-launch-1.0: sudo apt-get install gstreamer1.0-tools")
    return f"gst:videotestsrc num-buffers={FRAMES} ! video/x-raw,width={SIZE[1]},height={SIZE[0]}"


@needs_compiler
@pytest.mark.parametrize("source", [video, pipeline])
@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("tiles", [False, True])
def test_frames_are_uploaded_from_where_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
    engine: Path,
    tmp_path: Path,
    decoded: list[int],
    source: Callable[[Path], str],
    *,
    tiles: bool,
    integrated: bool,
) -> None:
    world = World(monkeypatch, Driver(integrated=integrated), engine, tmp_path)
    # The waiting thread runs the streams of the stand-in, so only one thread may wait at once.
    lock, proceed = threading.Lock(), world.driver.proceed

    def one_at_a_time(until: Callable[[], bool]) -> None:
        with lock:
            proceed(until)

    monkeypatch.setattr(world.driver, "proceed", one_at_a_time)
    name = source(tmp_path)
    with Detector.load(world.engine) as whole:
        detector = TiledDetector(whole, tile=(64, 64), overlap=8) if tiles else whole
        assert sum(1 for _ in detector.stream(name)) == FRAMES
    assert len(decoded) == FRAMES
    if tiles:  # whose headers are uploaded, too
        uploads = [address for address in world.driver.uploaded if address in decoded]
        assert uploads == ([] if integrated else decoded)
    elif integrated:
        assert not world.driver.uploaded
    else:
        assert [address for address in world.driver.uploaded if address in decoded] == decoded
        # The rest is small: the headers of two slots, and the thresholds.
        assert len(world.driver.uploaded) - FRAMES == 3
    world.check_nothing_is_left()


@pytest.mark.parametrize("source", [video, pipeline])
def test_the_letterbox_reads_frames_from_where_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decoded: list[int], source: Callable[[Path], str]
) -> None:
    read: list[int] = []

    def resize(frame: Any, *arguments: Any, **options: Any) -> Any:
        read.append(frame.ctypes.data)
        return cv2.resize(frame, *arguments, **options)

    name = source(tmp_path)
    stand_in = type("cv2", (), {"resize": staticmethod(resize), "INTER_LINEAR": cv2.INTER_LINEAR})
    monkeypatch.setattr(letterbox, "cv2", stand_in)
    with Detector.load(MODEL) as detector:
        assert sum(1 for _ in detector.stream(name)) == FRAMES
    assert read == decoded
    assert len(read) == FRAMES
