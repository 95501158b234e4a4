"""The letterbox kernel in the emulator, on frames in the memory of the GPU: layouts, NV12 and regions.

NV12 is compared with OpenCV's conversion, which is BT.601 with limited range, with OpenCV's YCrCb, which is BT.601 with
full range, with FFmpeg's, and with the code values of the color bars of BT.709.
"""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.frame_region import Frame, FrameRegion
from engines.core.gpu_frame import GpuFrame
from engines.core.letterbox import letterbox_batch
from engines.runner.packed_frames import layout_of, letterbox_launch
from tests.engines.core.gpu_arrays import Interface, surface
from tests.engines.plugins.emulated import needs_compiler, run_kernel

pytestmark = needs_compiler

INPUT = (96, 160)
SIZES = [(96, 160), (192, 320), (540, 960), (48, 80), (98, 162), (2, 2), (334, 500)]
# OpenCV interpolates in fixed point with 11 bits, the kernel in float32.
GRAY_LEVELS = 1
# OpenCV also rounds the BGR values before it interpolates, the kernel does not.
GRAY_LEVELS_NV12 = 2
# FFmpeg's conversion is up to 2.5 gray levels from the exact one. The other matrix, or the other range, differs by more
# than 10 in the same pictures.
GRAY_LEVELS_FFMPEG = 3


def by_kernel(frames: list[Frame], *, batch: int | None = None, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Letterbox frames with the kernel; those that are not on the GPU are packed."""
    batch = batch or len(frames)
    layout = layout_of(frames, INPUT, batch)
    packed = np.full(layout.nbytes, 0xA5, np.uint8)
    packed[: len(layout.header)] = layout.header
    for frame, position in zip(frames, layout.positions, strict=True):
        if isinstance(frame, np.ndarray):
            packed[position : position + frame.size] = frame.reshape(-1)
    images: npt.NDArray[np.uint8]
    [images] = run_kernel(letterbox_launch(INPUT, batch), [packed], seed=seed)
    return images


def by_opencv(frame: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    images, _ = letterbox_batch([frame], INPUT)
    image: npt.NDArray[np.uint8] = images[0]
    return image


def worst(found: npt.NDArray[np.uint8], expected: npt.NDArray[Any]) -> int:
    return int(np.abs(found.astype(int) - expected).max())


def padded(bgr: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Return a picture with rows that are longer than needed, and a last channel if there are to be four."""
    out = np.random.default_rng(1).integers(0, 256, (len(bgr), bgr.shape[1] + 5, channels), np.uint8)
    out[:, : bgr.shape[1], :3] = bgr
    return out[:, : bgr.shape[1]]


LAYOUTS: dict[str, Any] = {
    "bgr": lambda bgr: (bgr, "bgr"),
    "rgb": lambda bgr: (np.ascontiguousarray(bgr[:, :, ::-1]), "rgb"),
    "bgr with a pitch": lambda bgr: (padded(bgr, 3), "bgr"),
    "rgb with a pitch": lambda bgr: (padded(bgr[:, :, ::-1], 3), "rgb"),
    "bgra": lambda bgr: (padded(bgr, 4), "bgr"),
    "rgba": lambda bgr: (padded(bgr[:, :, ::-1], 4), "rgb"),
    "planes of rgb": lambda bgr: (np.ascontiguousarray(bgr[:, :, ::-1].transpose(2, 0, 1)), "rgb"),
    "planes of bgr": lambda bgr: (np.ascontiguousarray(bgr.transpose(2, 0, 1)), "bgr"),
    "upside down": lambda bgr: (np.ascontiguousarray(bgr[::-1])[::-1], "bgr"),
    "view of planes": lambda bgr: (np.ascontiguousarray(bgr.transpose(2, 0, 1)).transpose(1, 2, 0), "bgr"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_image_of_the_packed_frame(layout: str) -> None:
    for size in ((540, 960), (50, 70)):
        bgr = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
        array, color = LAYOUTS[layout](bgr)
        [image] = by_kernel([GpuFrame(Interface(array), color=color)])
        np.testing.assert_array_equal(image, by_kernel([bgr])[0])
        assert worst(image, by_opencv(bgr)) <= GRAY_LEVELS


def test_gray_is_the_same_in_all_channels() -> None:
    gray = surface(333, 500, pitch=512)
    [image] = by_kernel([GpuFrame(Interface(gray), color="gray")])
    assert worst(image, by_opencv(gray)) <= GRAY_LEVELS


def test_the_other_order_of_colors_exceeds_the_tolerance() -> None:
    bgr = np.random.default_rng(2).integers(0, 256, (96, 160, 3), np.uint8)
    [image] = by_kernel([GpuFrame(Interface(bgr), color="rgb")])
    assert worst(image, by_opencv(bgr)) > 100


def nv12(size: tuple[int, int], *, rows: int = 0, pitch: int = 0, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random NV12 of all byte values, also those out of range: [3/2 * rows, width]."""
    return surface((rows or size[0]) * 3 // 2, size[1], pitch=pitch or size[1], seed=seed)


@pytest.mark.parametrize("size", SIZES)
def test_nv12_is_converted_and_resized_as_by_opencv(size: tuple[int, int]) -> None:
    picture = nv12(size)
    frame = GpuFrame.nv12(Interface(picture), matrix="bt601", color_range="limited")
    expected = by_opencv(cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_NV12))
    assert worst(by_kernel([frame])[0], expected) <= GRAY_LEVELS_NV12


@pytest.mark.parametrize("size", SIZES)
def test_full_range_nv12_is_converted_as_opencv_converts_ycrcb(size: tuple[int, int]) -> None:
    picture = nv12(size)
    chroma = picture[size[0] :].reshape(size[0] // 2, size[1] // 2, 2).repeat(2, 0).repeat(2, 1)
    ycrcb = np.dstack([picture[: size[0]], chroma[:, :, 1], chroma[:, :, 0]])
    frame = GpuFrame.nv12(Interface(picture), matrix="bt601", color_range="full")
    assert worst(by_kernel([frame])[0], by_opencv(cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2BGR))) <= GRAY_LEVELS_NV12


def test_a_decoders_surface_is_read_without_its_padding() -> None:
    """1,088 rows for 1,080, and a pitch of 2,048 bytes, as one surface and as two planes."""
    padded_surface = nv12((1080, 1920), rows=1088, pitch=2048)
    luma, chroma = padded_surface[:1080], padded_surface[1088:1628]
    tight = np.concatenate([luma, chroma])
    expected = by_opencv(cv2.cvtColor(tight, cv2.COLOR_YUV2BGR_NV12))
    for given, height in (
        (Interface(padded_surface), 1080),
        ((Interface(luma[:, :, None]), Interface(chroma.reshape(540, 960, 2))), None),
        ((Interface(luma), Interface(chroma)), None),
    ):
        frame = GpuFrame.nv12(given, matrix="bt601", color_range="limited", height=height)
        assert worst(by_kernel([frame])[0], expected) <= GRAY_LEVELS_NV12


PATCH, COUNT = 16, (6, 10)


def patches(*, full: bool) -> npt.NDArray[np.uint8]:
    """Return NV12 of 60 patches of one color each, because FFmpeg interpolates chroma between the pixels."""
    random = np.random.default_rng(3)
    luma = random.integers(0 if full else 16, 256 if full else 236, COUNT, np.uint8)
    chroma = random.integers(64, 192, (*COUNT, 2), np.uint8)
    rows = luma.repeat(PATCH, 0).repeat(PATCH, 1)
    pairs = chroma.repeat(PATCH // 2, 0).repeat(PATCH // 2, 1).reshape(len(rows) // 2, -1)
    return np.concatenate([rows, pairs])


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("color_range", ["limited", "full"])
def test_every_matrix_and_range_is_that_of_ffmpeg(matrix: str, color_range: str) -> None:
    picture = patches(full=color_range == "full")
    space = {"bt601": "ITU601", "bt709": "ITU709"}

    def by_ffmpeg(matrix: str, color_range: str) -> npt.NDArray[np.uint8]:
        frame = av.VideoFrame.from_ndarray(picture, format="nv12")
        options: dict[str, Any] = {
            "src_color_range": {"limited": "MPEG", "full": "JPEG"}[color_range],
            "dst_color_range": "JPEG",
            "src_colorspace": space[matrix],
            "dst_colorspace": space[matrix],
        }
        return np.asarray(frame.reformat(format="bgr24", **options).to_ndarray(), np.uint8)

    center = (slice(PATCH // 2, None, PATCH), slice(PATCH // 2, None, PATCH))
    frame = GpuFrame.nv12(Interface(picture), matrix=matrix, color_range=color_range)
    found = by_kernel([frame])[0][center]
    assert worst(found, by_ffmpeg(matrix, color_range)[center]) <= GRAY_LEVELS_FFMPEG
    others = {(other, levels) for other in space for levels in ("limited", "full")} - {(matrix, color_range)}
    for other in others:
        assert worst(found, by_ffmpeg(*other)[center]) > 10


# Code values (Y, Cb, Cr) of the color bars with 100% in BT.709 with 8 bits, and their B, G, R.
BARS = {
    (235, 128, 128): (255, 255, 255),
    (219, 16, 138): (0, 255, 255),
    (188, 154, 16): (255, 255, 0),
    (173, 42, 26): (0, 255, 0),
    (78, 214, 230): (255, 0, 255),
    (63, 102, 240): (0, 0, 255),
    (32, 240, 118): (255, 0, 0),
    (16, 128, 128): (0, 0, 0),
}


def test_the_color_bars_of_bt709_have_their_colors() -> None:
    for (luma, u, v), bgr in BARS.items():
        picture = np.full((96 * 3 // 2, 160), luma, np.uint8)
        picture[96:, ::2], picture[96:, 1::2] = u, v
        frame = GpuFrame.nv12(Interface(picture), matrix="bt709", color_range="limited")
        assert worst(by_kernel([frame])[0], np.broadcast_to(bgr, (96, 160, 3))) <= GRAY_LEVELS


REGIONS = [
    (0, 0, 96, 160),
    (31, 17, 96, 160),
    (31, 17, 200, 333),
    (301, 403, 96, 160),
    (3, 5, 45, 63),
    (0, 0, 400, 700),
]


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_the_crop_with_black_past_the_frame(region: tuple[int, int, int, int]) -> None:
    """Also for NV12 and odd positions, at which two tiles share chroma samples; some reach past the frame."""
    top, left, height, width = region
    picture = nv12((334, 500))
    bgr = np.asarray(cv2.cvtColor(picture, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    crop = FrameRegion(bgr, top, left, (height, width)).crop()
    assert crop.shape == (height, width, 3)
    expected = by_opencv(crop)
    on_gpu = GpuFrame(Interface(bgr), color="bgr")
    video = GpuFrame.nv12(Interface(picture), matrix="bt601", color_range="limited")
    [plain] = by_kernel([FrameRegion(on_gpu, top, left, (height, width))])
    np.testing.assert_array_equal(plain, by_kernel([crop])[0])
    assert worst(plain, expected) <= GRAY_LEVELS
    [converted] = by_kernel([FrameRegion(video, top, left, (height, width))])
    assert worst(converted, expected) <= GRAY_LEVELS_NV12


def test_a_batch_mixes_frames_of_all_kinds() -> None:
    bgr = np.random.default_rng(4).integers(0, 256, (100, 120, 3), np.uint8)
    frames: list[Frame] = [
        GpuFrame.nv12(Interface(nv12((98, 162))), matrix="bt709", color_range="full"),
        bgr,
        FrameRegion(GpuFrame(Interface(bgr), color="rgb"), 10, 20, (50, 60)),
        bgr[::2, 3:],
    ]
    images = by_kernel(frames, batch=6, seed=5)
    for frame, image in zip(frames, images, strict=False):
        np.testing.assert_array_equal(image, by_kernel([frame])[0])
    assert not images[4:].any()
