"""Read where an array of another library lies in the memory of a GPU.

Two protocols say it without a copy, and without that library: ``__cuda_array_interface__`` and DLPack.

References: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html,
https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

# Device types of DLPack: memory of an NVIDIA GPU, and memory that it shares with the host (managed).
_CUDA, _CUDA_MANAGED = 2, 13
# Kinds of numbers in DLPack, as NumPy writes them.
_KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}


@dataclass(frozen=True)
class GpuArray:
    """An array in the memory of a GPU.

    Attributes:
        address: address of the first element.
        shape: number of elements along each axis.
        strides: distance of neighbors along each axis, bytes; may be negative.
        dtype: NumPy's type string, such as ``|u1`` for uint8.
        stream: handle of the stream on which the array's content is written; None if the array does not say it.
        owner: object that keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    stream: int | None
    owner: Any


def on_gpu(value: Any) -> bool:
    """Return True for an array in the memory of an NVIDIA GPU, as far as one of the two protocols says it.

    Examples:
        >>> on_gpu(np.zeros(3))
        False
    """
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) in (_CUDA, _CUDA_MANAGED)


def read_gpu_array(value: Any) -> GpuArray:
    """Return where an array lies. An array with both protocols is read by ``__cuda_array_interface__``.

    Args:
        value: array of another library, such as a tensor of torch on a GPU.

    Raises:
        ValueError: if the value is not an array, is not in the memory of a GPU, or has a mask.
    """
    if hasattr(value, "__cuda_array_interface__"):
        return _by_interface(value)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        kind = int(value.__dlpack_device__()[0])
        if kind in (_CUDA, _CUDA_MANAGED):
            return _by_dlpack(value)
        where = "host memory" if kind == 1 else f"memory of DLPack's device type {kind}"
        raise ValueError(
            f"expected an array in the memory of an NVIDIA GPU, got {type(value).__name__} in {where}; pass an array "
            "in host memory as a NumPy array, without GpuFrame"
        )
    raise ValueError(
        "expected an array in the memory of a GPU, with __cuda_array_interface__ or DLPack (torch, CuPy, "
        f"PyNvVideoCodec), got {type(value).__name__}"
    )


def _by_interface(value: Any) -> GpuArray:
    interface = value.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise ValueError("expected an array without a mask, got one with a mask; pass its data")
    dtype = np.dtype(interface["typestr"])
    shape = tuple(int(side) for side in interface["shape"])
    strides = interface.get("strides") or _contiguous(shape, dtype.itemsize)
    steps = tuple(int(step) for step in strides)
    return GpuArray(int(interface["data"][0]), shape, steps, dtype.str, interface.get("stream"), value)


class _DLTensor(ctypes.Structure):
    """The start of ``DLManagedTensor`` of dlpack.h, whose first member it is."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _by_dlpack(value: Any) -> GpuArray:
    capsule = value.__dlpack__()
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    dtype = f"{'|' if tensor.bits == 8 else '<'}{_KINDS.get(tensor.code, 'V')}{tensor.bits * tensor.lanes // 8}"
    itemsize = tensor.bits * tensor.lanes // 8
    shape = tuple(tensor.shape[: tensor.ndim])
    # DLPack counts strides in elements. The pointer is null for a contiguous array.
    strides = tuple(step * itemsize for step in tensor.strides[: tensor.ndim]) if tensor.strides else ()
    # The capsule is only read, not consumed, so it calls the deleter itself when it is freed.
    return GpuArray(
        (tensor.data or 0) + tensor.byte_offset,
        shape,
        strides or _contiguous(shape, itemsize),
        dtype,
        None,
        (value, capsule),
    )


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    return tuple(itertools.accumulate(shape[:0:-1], lambda step, side: step * side, initial=itemsize))[::-1]
