"""Tests of the packing of frames, and of the letterbox kernel in the emulator, compared with OpenCV's resize."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.frame_region import FrameRegion
from engines.core.gpu_frame import Pixels
from engines.core.letterbox import Letterbox, letterbox_batch
from engines.core.yuv import YuvToBgr
from engines.runner.frame_header import HEADER, IN_FRAMES, NV12, header_offsets, write_row
from engines.runner.packed_frames import UNIT, layout_of, letterbox_launch
from engines.runner.packing import Packer
from tests.engines.plugins.emulated import needs_compiler, run_kernel

INPUT = (96, 160)
# OpenCV interpolates in fixed point with 11 bits, the kernel in float32.
GRAY_LEVELS = 1


def noise(size: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def packed(frames: list[npt.NDArray[np.uint8]], batch: int) -> npt.NDArray[np.uint8]:
    """Return a header and frames, and check that the parts of each frame follow each other without a gap."""
    layout = layout_of(frames, INPUT, batch)
    memory = np.full(layout.nbytes, 0xA5, np.uint8)
    memory[: len(layout.header)] = layout.header
    for frame, position in zip(frames, layout.positions, strict=True):
        begins, ends = zip(*Packer().pack(frame, memory[position:]), strict=True)
        assert begins == (0, *ends[:-1])
        assert ends[-1] == frame.size
    return memory


def by_kernel(frames: list[npt.NDArray[np.uint8]], batch: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Letterbox frames with the kernel and return ``batch`` images."""
    [images] = run_kernel(letterbox_launch(INPUT, batch), [packed(frames, batch)], seed=seed)
    return images


@needs_compiler
@pytest.mark.parametrize(
    "size",
    [
        (96, 160),  # not resized
        (192, 320),  # halved, for which OpenCV takes the mean of four pixels
        (540, 960),
        (1080, 1920),
        (1920, 1080),
        (48, 80),  # doubled
        (97, 161),
        (7, 3),
        (1, 1),
        (1, 2000),  # one row in the input
        (2000, 1),
        (333, 500),
    ],
)
def test_a_frame_is_resized_as_by_opencv(size: tuple[int, int]) -> None:
    frame = noise(size)
    expected, _ = letterbox_batch([frame], INPUT)
    found = by_kernel([frame], 1)
    assert np.abs(found.astype(int) - expected).max() <= GRAY_LEVELS


@needs_compiler
def test_the_padding_is_exactly_zero() -> None:
    [image] = by_kernel([np.full((100, 100, 3), 255, np.uint8)], 1)
    assert (image[:, :96] == 255).all()
    assert (image[:, 96:] == 0).all()


@needs_compiler
def test_a_batch_gives_the_images_of_its_single_frames_and_zeros() -> None:
    frames = [noise((50, 70), 1), noise((300, 200), 2), noise((96, 160), 3)]
    images = by_kernel(frames, 5, seed=4)
    for frame, image in zip(frames, images, strict=False):
        np.testing.assert_array_equal(image, by_kernel([frame], 1)[0])
    assert not images[3:].any()


@needs_compiler
def test_real_frames_are_resized_as_by_opencv(frames: list[npt.NDArray[np.uint8]]) -> None:
    expected, _ = letterbox_batch(frames, INPUT)
    difference = np.abs(by_kernel(frames, len(frames)).astype(int) - expected)
    assert difference.max() <= GRAY_LEVELS
    # A shift by half a pixel would change most pixels.
    assert (difference == 0).mean() > 0.9


def test_frames_with_gaps_are_packed_without_gaps() -> None:
    wide = noise((40, 60))
    part = wide[3:30:2, 5:50]
    letterbox = Letterbox.fit((14, 45), INPUT)
    out = packed([part], 1)
    [row] = out[: HEADER.itemsize].view(HEADER)
    assert (row["kind"], row["pixels"], row["pitch"]) == (IN_FRAMES, UNIT, 3 * 45)
    assert (row["height"], row["width"], row["resized_height"], row["resized_width"]) == (14, 45, *letterbox.resized)
    np.testing.assert_array_equal(out[UNIT : UNIT + part.size].reshape(part.shape), part)


def test_a_row_has_the_layout_of_the_header() -> None:
    """The row is written by the module struct and read by names; each value here is in one field only."""
    pixels = Pixels((11, 12), 1 << 40, 3, 4, -5, 1 << 41, 6, YuvToBgr(0.5, 1.5, 2.5, 3.5, 4.5, 5.5))
    out = np.zeros(2 * HEADER.itemsize, np.uint8)
    write_row(out, 1, FrameRegion(pixels, 7, 8, (9, 10)), Letterbox((9, 10), (13, 14)), 0)
    names = ["pixels", "chroma", "kind", "pitch", "pixel_step", "channel_step", "chroma_pitch", "top", "left"]
    names += ["height", "width", "filled_height", "filled_width", "resized_height", "resized_width"]
    names += [*YuvToBgr._fields, "zero"]
    values = [1 << 40, 1 << 41, NV12, 3, 4, -5, 6, 7, 8, 9, 10, 4, 4, 13, 14, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 0]
    assert not out[: HEADER.itemsize].any()
    assert dict(zip(HEADER.names or (), out.view(HEADER)[1].item(), strict=True)) == dict(
        zip(names, values, strict=True)
    )


@needs_compiler
@pytest.mark.parametrize("distance", [-(1 << 20), 1 << 20])
def test_a_frame_may_lie_before_or_behind_the_header(distance: int) -> None:
    frame, memory = noise((50, 70)), np.zeros(4 << 20, np.uint8)
    header, place = memory[2 << 20 :], (2 << 20) + distance
    layout = layout_of([frame], INPUT, 1)
    header[: len(layout.header)] = layout.header
    header_offsets(header, 1)[0] = distance
    memory[place : place + frame.size] = frame.reshape(-1)
    [images] = run_kernel(letterbox_launch(INPUT, 1), [header])
    np.testing.assert_array_equal(images, by_kernel([frame], 1))


@needs_compiler
def test_another_interpolation_exceeds_the_tolerance() -> None:
    """Nearest-neighbor interpolation differs from the kernel by far more than the tolerance."""
    frame = noise((540, 960))
    resized = cv2.resize(frame, (160, 90), interpolation=cv2.INTER_NEAREST)
    assert np.abs(by_kernel([frame], 1)[0, :90].astype(int) - resized).max() > 100
