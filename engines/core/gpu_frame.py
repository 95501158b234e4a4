"""Frames that are in the memory of a GPU already, for instance from a hardware decoder or from torch.

An array alone does not say the order of its colors, nor how NV12 was made, so a ``GpuFrame`` names them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.core.gpu_array import GpuArray, read_gpu_array
from engines.core.letterbox import uint8_advice
from engines.core.yuv import YuvToBgr, yuv_to_bgr

COLORS = ("bgr", "rgb", "gray")
# The letterbox kernel has offsets of 32 bits inside a row and between planes.
_LIMIT = 2**30


@dataclass(frozen=True)
class Pixels:
    """Where the pixels of a frame lie in the memory of a GPU, in the terms of the letterbox kernel.

    Attributes:
        size: (height, width) of the frame, pixels.
        address: address of the blue value of the first pixel, or of the first luma of NV12.
        pitch: distance of neighboring rows, bytes.
        pixel_step: distance of neighboring pixels in a row, bytes.
        channel_step: distance from blue to green and from green to red, bytes.
        chroma: address of the first U of NV12; else 0.
        chroma_pitch: distance of neighboring rows of the chroma plane, bytes.
        conversion: conversion of NV12 to BGR; None if the pixels are BGR.
        owner: object that owns the memory, if it must live as long as this one; else None.
    """

    size: tuple[int, int]
    address: int
    pitch: int
    pixel_step: int = 3
    channel_step: int = 1
    chroma: int = 0
    chroma_pitch: int = 0
    conversion: YuvToBgr | None = None
    owner: object = field(default=None, compare=False, repr=False)


class GpuFrame:
    """A frame in the memory of a GPU, which an engine letterboxes there. ``GpuFrame.nv12`` takes NV12.

    The frame is not copied. The detector waits on the GPU for the stream that writes the frame: for ``stream``, or the
    stream that the array names, else as the array's library arranges it by DLPack (torch: its current stream). A stream
    that is given or named also waits until the frame is read, so the next frame may be written to the same memory on
    that stream. Otherwise, leave the memory as it is until the detections are there. The detector keeps the array alive
    until then.

    Args:
        array: uint8 array on a GPU, with ``__cuda_array_interface__`` or DLPack: [height, width, 3], or
            [height, width, 4] whose last channel is not used, or planes [3, height, width]; for ``gray``
            [height, width]. Rows may be padded: any strides are taken.
        color: order of the channels, ``bgr`` or ``rgb``; or ``gray``.
        stream: stream on which the array is written: its handle as an integer, or a stream of torch, CuPy or pycuda.
            None to ask the array.

    Attributes:
        pixels: where the pixels are.
        streams: handles of the streams that write the frame; empty if they are not known.
        owners: arrays that keep the memory alive.

    Raises:
        ValueError: if the array is not on a GPU, or has another shape or dtype, or ``color`` is none of these.

    Examples:
        >>> from types import SimpleNamespace
        >>> surface = SimpleNamespace(  # as a library describes it: 1080p, rows of 2,048 pixels
        ...     __cuda_array_interface__={
        ...         "shape": (1080, 1920, 3), "typestr": "|u1", "data": (0x7F0000000000, False), "version": 3,
        ...         "strides": (6144, 3, 1), "stream": None,
        ...     }
        ... )
        >>> GpuFrame(surface, color="rgb")
        GpuFrame(1080x1920, rgb)
    """

    def __init__(self, array: Any, *, color: str, stream: Any = None) -> None:
        if color not in COLORS:
            hint = "; use GpuFrame.nv12" if str(color).lower() == "nv12" else ""
            raise ValueError(f"color: expected {', '.join(COLORS)}, got {color!r}{hint}")
        found = read_gpu_array(array)
        self.pixels = _pixels(found, color)
        self._set(color, stream, found)

    @classmethod
    def nv12(
        cls, surface: Any, *, matrix: str, color_range: str, height: int | None = None, stream: Any = None
    ) -> GpuFrame:
        """Return a frame in NV12: a plane of luma, then a plane of U and V in turn at half the size.

        Args:
            surface: uint8 array on a GPU, [3/2 * rows, width], or the two planes (luma [rows, width], chroma
                [rows / 2, width / 2, 2] or [rows / 2, width]). Rows may be padded.
            matrix: ``bt709`` (usual for 720p and more) or ``bt601``.
            color_range: ``limited`` (usual for video: luma from 16 to 235) or ``full``.
            height: rows of the picture, if decoder's surface has more, such as 1080 of 1088; None for all rows.
            stream: as for ``GpuFrame``.

        Raises:
            ValueError: if an array is not on a GPU or has another shape or dtype, a side is odd, or ``matrix``,
                ``color_range`` or ``height`` cannot be right.

        Examples:
            >>> from types import SimpleNamespace
            >>> surface = SimpleNamespace(
            ...     __cuda_array_interface__={
            ...         "shape": (1632, 1920), "typestr": "|u1", "data": (0x7F0000000000, False), "version": 2
            ...     }
            ... )
            >>> GpuFrame.nv12(surface, matrix="bt709", color_range="limited", height=1080)
            GpuFrame(1080x1920, nv12 bt709 limited)
        """
        conversion = yuv_to_bgr(matrix, color_range)
        luma, chroma = _planes(surface)
        frame = cls.__new__(cls)
        size = _nv12_size(luma, chroma, height)
        steps = {"pitch": luma.strides[0], "chroma_pitch": chroma.strides[0]}
        _check_steps(*steps.values())
        frame.pixels = Pixels(
            size, luma.address, pixel_step=1, channel_step=0, chroma=chroma.address, conversion=conversion, **steps
        )
        frame._set(f"nv12 {matrix} {color_range}", stream, luma, chroma)
        return frame

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.pixels.size

    def __repr__(self) -> str:
        return f"GpuFrame({self.size[0]}x{self.size[1]}, {self._kind})"

    def _set(self, kind: str, stream: Any, *arrays: GpuArray) -> None:
        self._kind = kind
        named = {array.stream for array in arrays if array.stream is not None}
        self.streams: tuple[int, ...] = tuple(sorted(named)) if stream is None else (_handle(stream),)
        self.owners: tuple[Any, ...] = tuple(array.owner for array in arrays)


def _pixels(array: GpuArray, color: str) -> Pixels:
    shape, strides = array.shape, array.strides
    form = "[height, width]" if color == "gray" else "[height, width, 3 or 4] or planes [3, height, width]"
    expected = f"expected uint8 {form} for color {color!r}"
    _check_dtype(array, expected)
    if color == "gray" and (len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)):
        rows, columns, channel_step = 0, 1, 0
    elif color != "gray" and len(shape) == 3 and shape[2] in (3, 4):
        rows, columns, channel_step = 0, 1, strides[2]
    elif color != "gray" and len(shape) == 3 and shape[0] in (3, 4):
        rows, columns, channel_step = 1, 2, strides[0]
    else:
        raise ValueError(f"{expected}, got uint8 {list(shape)}{_shape_advice(shape, color)}")
    if not all(shape):
        raise ValueError(f"{expected}, got an empty array {list(shape)}")
    pitch, pixel_step = strides[rows], strides[columns]
    _check_steps(pitch, shape[columns] * pixel_step, channel_step)
    blue = array.address
    if color == "rgb":
        blue, channel_step = blue + 2 * channel_step, -channel_step
    return Pixels((shape[rows], shape[columns]), blue, pitch, pixel_step, channel_step)


def _planes(surface: Any) -> tuple[GpuArray, GpuArray]:
    """Return luma [rows, width] and chroma [rows, width] of NV12, of which either may have more rows than is used."""
    expected = (
        "NV12: expected uint8 [3/2 * rows, width], or planes (luma [rows, width], chroma [rows / 2, width / 2, 2])"
    )
    if isinstance(surface, tuple | list):
        if len(surface) != 2:
            raise ValueError(f"{expected}, got {len(surface)} arrays; for three planes (I420), convert to NV12 first")
        luma, chroma = (_rows(read_gpu_array(plane), expected) for plane in surface)
        return luma, chroma
    whole = _rows(read_gpu_array(surface), expected)
    rows, width = whole.shape
    if rows % 3:
        raise ValueError(
            f"{expected}, got uint8 {list(whole.shape)}, whose rows are not a multiple of 3; pass the two planes"
        )
    start = rows // 3 * 2
    address = whole.address + start * whole.strides[0]
    chroma = GpuArray(address, (rows // 3, width), whole.strides, whole.dtype, whole.stream, whole.owner)
    return GpuArray(whole.address, (start, width), whole.strides, whole.dtype, whole.stream, whole.owner), chroma


def _rows(plane: GpuArray, expected: str) -> GpuArray:
    """Return a plane as rows of bytes without gaps in a row: [rows, width]."""
    _check_dtype(plane, expected)
    shape, strides = plane.shape, plane.strides
    if len(shape) == 3 and shape[2] in (1, 2) and (shape[2] == 1 or strides[2] == 1) and strides[1] == shape[2]:
        shape, strides = (shape[0], shape[1] * shape[2]), (strides[0], 1)
    if len(shape) != 2 or strides[1] != 1 or not all(shape):
        steps = "" if len(shape) < 2 or strides[-1] == 1 else f" with strides {list(strides)}"
        raise ValueError(f"{expected}, without gaps inside a row; got uint8 {list(plane.shape)}{steps}")
    return GpuArray(plane.address, shape, strides, plane.dtype, plane.stream, plane.owner)


def _nv12_size(luma: GpuArray, chroma: GpuArray, height: int | None) -> tuple[int, int]:
    rows, width = luma.shape
    if height is not None and not 1 <= height <= rows:
        raise ValueError(f"height: expected 1 to {rows}, the rows of the luma, got {height}")
    if chroma.shape[1] != width or chroma.shape[0] * 2 < (height or rows):
        raise ValueError(
            f"NV12: expected chroma of {rows // 2} rows of {width} bytes, half the rows of the luma, got "
            f"{chroma.shape[0]} rows of {chroma.shape[1]} bytes"
        )
    size = (rows if height is None else height, width)
    if size[0] % 2 or size[1] % 2:
        raise ValueError(
            f"NV12: expected an even height and width, because two by two pixels share a chroma sample, got "
            f"{size[0]}x{size[1]}; pass the even part"
        )
    return size


def _check_dtype(array: GpuArray, expected: str) -> None:
    if array.dtype != "|u1":
        dtype = np.dtype(array.dtype)
        advice = "; let the decoder give 8 bits (NV12 instead of P016)" if "NV12" in expected else uint8_advice(dtype)
        raise ValueError(f"{expected}, got {dtype} {list(array.shape)}{advice}")


def _check_steps(*steps: int) -> None:
    if max(map(abs, steps)) >= _LIMIT:
        raise ValueError(f"expected rows and planes less than 1 GiB apart, got strides of {max(map(abs, steps))} bytes")


def _shape_advice(shape: tuple[int, ...], color: str) -> str:
    if len(shape) == 4:
        return "; pass the frames one by one, in a list"
    if len(shape) == 2 and color != "gray":
        return "; for one channel say color='gray', and for NV12 use GpuFrame.nv12"
    return ""


def _handle(stream: Any) -> int:
    """Return the handle of a stream: of torch (``cuda_stream``), CuPy (``ptr``), pycuda (``handle``), or an integer."""
    for name in ("cuda_stream", "ptr", "handle"):
        stream = getattr(stream, name, stream)
    if isinstance(stream, bool) or not isinstance(stream, int) or stream < 0:
        raise ValueError(
            f"stream: expected the handle of a CUDA stream (an integer), or a stream of torch, CuPy or pycuda, got "
            f"{stream!r}"
        )
    return stream
