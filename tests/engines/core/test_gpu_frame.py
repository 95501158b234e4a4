"""Frames on a GPU: which arrays are taken, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engines.core.executor import HostExecutor, RawDetections
from engines.core.frame_region import FrameRegion
from engines.core.gpu_frame import GpuFrame
from tests.engines.core.gpu_arrays import Capsule, Interface, surface
from tests.stand_in import StandIn, contract


def interface(*shape: int, dtype: str = "|u1", **changes: Any) -> Interface:
    return Interface(np.zeros(shape, dtype), **changes)


VIDEO: dict[str, Any] = {"matrix": "bt709", "color_range": "limited"}


@pytest.mark.parametrize(
    ("shape", "color"),
    [((4, 6, 3), "bgr"), ((4, 6, 4), "rgb"), ((3, 4, 6), "rgb"), ((4, 6), "gray"), ((4, 6, 1), "gray")],
)
def test_every_layout_has_the_size_of_the_picture(shape: tuple[int, ...], color: str) -> None:
    frame = GpuFrame(interface(*shape), color=color)
    assert frame.size == (4, 6)
    assert repr(frame) == f"GpuFrame(4x6, {color})"


@pytest.mark.parametrize(
    ("array", "color", "words"),
    [
        (interface(4, 6, 3), "hsv", "color: expected bgr, rgb, gray, got 'hsv'"),
        (interface(6, 6), "nv12", "got 'nv12'; use GpuFrame.nv12"),
        (interface(4, 6), "bgr", r"got uint8 \[4, 6\]; for one channel say color='gray'"),
        (interface(2, 4, 6, 3), "rgb", r"got uint8 \[2, 4, 6, 3\]; pass the frames one by one, in a list"),
        (interface(4, 6, 3), "gray", r"expected uint8 \[height, width\] for color 'gray', got uint8 \[4, 6, 3\]"),
        (interface(0, 6, 3), "rgb", "got an empty array"),
        (interface(4, 6, 3, dtype="<f4"), "rgb", r"got float32 \[4, 6, 3\]; scale the values to 0..255"),
        (interface(4, 6, 3, strides=(2**31, 3, 1)), "rgb", "less than 1 GiB apart, got strides of 2147483648 bytes"),
        (np.zeros((4, 6, 3), np.uint8), "bgr", "got ndarray in host memory"),
        (torch.zeros((4, 6, 3), dtype=torch.uint8), "bgr", "got Tensor in host memory"),
    ],
)
def test_what_cannot_be_right_is_refused(array: object, color: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GpuFrame(array, color=color)


@pytest.mark.parametrize(
    ("planes", "height", "words"),
    [
        (interface(4, 6), None, r"got uint8 \[4, 6\], whose rows are not a multiple of 3; pass the two planes"),
        (interface(9, 6, dtype="<u2"), None, r"got uint16 \[9, 6\]; let the decoder give 8 bits"),
        (interface(9, 7), None, "expected an even height and width, .* got 6x7; pass the even part"),
        (interface(12, 6), 5, "got 5x6"),
        (interface(12, 6), 10, "height: expected 1 to 8, the rows of the luma, got 10"),
        (interface(12, 6), 0, "height: expected 1 to 8"),
        (interface(12, 6, 3), None, r"without gaps inside a row; got uint8 \[12, 6, 3\]$"),
        (Interface(np.zeros((12, 12), np.uint8)[:, ::2]), None, r"got uint8 \[12, 6\] with strides \[12, 2\]"),
        ((interface(8, 6),), None, "got 1 arrays"),
        ((interface(8, 6), interface(4, 3), interface(4, 3)), None, r"got 3 arrays; for three planes \(I420\)"),
        ((interface(8, 6), interface(4, 3)), None, "chroma of 4 rows of 6 bytes, .* got 4 rows of 3 bytes"),
        ((interface(8, 6), interface(3, 6)), None, "got 3 rows of 6 bytes"),
    ],
)
def test_what_cannot_be_nv12_is_refused(planes: Any, height: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GpuFrame.nv12(planes, height=height, **VIDEO)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrix": "bt2020"}, "matrix: expected bt601 or bt709, got 'bt2020'"),
        ({"color_range": "tv"}, "color_range: expected limited or full, got 'tv'"),
    ],
)
def test_another_matrix_or_range_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GpuFrame.nv12(interface(12, 6), **(VIDEO | changes))


def test_the_visible_part_of_a_surface_with_padding() -> None:
    """A decoder's surface: 1,088 rows for 1,080, and 2,048 bytes for 1,920 pixels."""
    padded = surface(1632, 1920, pitch=2048)
    whole = GpuFrame.nv12(Interface(padded), height=1080, **VIDEO)
    planes = (Interface(padded[:1080, :, None]), Interface(padded[1088:1628].reshape(540, 960, 2)))
    apart = GpuFrame.nv12(planes, **VIDEO)
    for frame in (whole, apart):
        assert frame.size == (1080, 1920)
    assert whole.pixels.pitch == apart.pixels.pitch == whole.pixels.chroma_pitch == 2048
    assert whole.pixels.chroma - whole.pixels.address == 1088 * 2048


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (7, 7),
        (0, 0),
        (SimpleNamespace(cuda_stream=9), 9),
        (SimpleNamespace(ptr=11), 11),
        (SimpleNamespace(handle=13), 13),
    ],
    ids=["integer", "default", "torch", "cupy", "pycuda"],
)
def test_streams_of_several_libraries(stream: object, handle: int) -> None:
    assert GpuFrame(interface(4, 6, 3, stream=5), color="rgb", stream=stream).streams == (handle,)
    assert GpuFrame(interface(4, 6, 3, stream=5), color="rgb").streams == (5,)
    assert GpuFrame(Capsule(torch.zeros((4, 6, 3), dtype=torch.uint8)), color="rgb").streams == ()


@pytest.mark.parametrize("stream", [-1, True, 1.0, "default"])
def test_another_stream_is_refused(stream: object) -> None:
    with pytest.raises(ValueError, match="stream: expected the handle of a CUDA stream"):
        GpuFrame(interface(4, 6, 3), color="rgb", stream=stream)


def test_an_executor_on_the_cpu_refuses_frames_on_a_gpu_by_name() -> None:
    frame = GpuFrame(interface(4, 6, 3), color="rgb")
    executor = StandIn(contract())
    assert isinstance(executor, HostExecutor)
    executor.library = "ONNX Runtime"
    for given in (frame, FrameRegion(frame, 0, 0, (2, 2))):
        with pytest.raises(ValueError, match=r"ONNX Runtime gets its images from the CPU, got GpuFrame\(4x6, rgb\)"):
            executor.submit([given])
    assert isinstance(executor.result(executor.submit([np.zeros((4, 6, 3), np.uint8)])), RawDetections)
