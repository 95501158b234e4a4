"""Arrays in host memory that say they are on a GPU: the emulator reads the memory of the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class Interface:
    """An array with ``__cuda_array_interface__``, as CuPy's, over an array of NumPy."""

    def __init__(self, array: npt.NDArray[Any], **changes: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            **changes,
        }


class Capsule:
    """An array with DLPack, as PyNvVideoCodec's, over a tensor of torch, whose own export is on the CPU."""

    def __init__(self, tensor: torch.Tensor, *, kind: int = 2) -> None:
        self.tensor, self.kind = tensor, kind
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def surface(rows: int, columns: int, *, pitch: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random bytes [rows, columns], whose rows are ``pitch`` bytes apart."""
    return np.random.default_rng(seed).integers(0, 256, (rows, pitch), np.uint8)[:, :columns]
