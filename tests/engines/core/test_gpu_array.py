"""Reading of arrays on a GPU, compared with what torch and NumPy say of the same arrays."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from engines.core.gpu_array import on_gpu, read_gpu_array
from tests.engines.core.gpu_arrays import Capsule, Interface


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 6, 3, dtype=torch.uint8),
        torch.zeros(4, 8, 3, dtype=torch.uint8)[1:, 2:7],
        torch.zeros(3, 4, 6, dtype=torch.uint8).permute(1, 2, 0),
        torch.zeros(5, 7, dtype=torch.float32),
        torch.zeros(5, 7, dtype=torch.int64)[::2],
        torch.zeros(2, 2, dtype=torch.float16),
    ],
    ids=["contiguous", "part", "planes", "float32", "int64", "float16"],
)
def test_both_protocols_say_what_torch_and_numpy_say(tensor: torch.Tensor) -> None:
    array = tensor.numpy()
    for value in (Capsule(tensor), Interface(array)):
        found = read_gpu_array(value)
        assert found.address == tensor.data_ptr()
        assert found.shape == tuple(tensor.shape)
        assert found.strides == tuple(step * tensor.element_size() for step in tensor.stride()) == array.strides
        assert found.dtype == array.dtype.str


def test_a_capsule_of_numpy_is_read_too() -> None:
    class Numpy:
        array = np.zeros((3, 5, 2), np.uint8)[:, ::2]

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, *, stream: int | None = None) -> object:
            return self.array.__dlpack__()

    found = read_gpu_array(Numpy())
    assert (found.address, found.shape, found.strides) == (Numpy.array.ctypes.data, (3, 3, 2), Numpy.array.strides)


def test_the_memory_lives_as_long_as_the_array_that_was_read() -> None:
    tensor = torch.zeros(4, 4, 3, dtype=torch.uint8)
    alive = weakref.ref(tensor.untyped_storage())
    found = read_gpu_array(Capsule(tensor))
    del tensor
    gc.collect()
    assert alive() is not None
    del found
    gc.collect()
    assert alive() is None


def test_the_stream_of_an_interface_is_read() -> None:
    array = np.zeros((2, 2), np.uint8)
    assert read_gpu_array(Interface(array)).stream is None
    assert read_gpu_array(Interface(array, stream=None)).stream is None
    assert read_gpu_array(Interface(array, stream=1)).stream == 1


def test_arrays_in_host_memory_are_not_on_a_gpu() -> None:
    for value in (np.zeros(3), torch.zeros(3), "text", None):
        assert not on_gpu(value)
    assert on_gpu(Interface(np.zeros(3)))
    assert on_gpu(Capsule(torch.zeros(3)))
    assert not on_gpu(Capsule(torch.zeros(3), kind=10))  # AMD's


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(3), "got ndarray in host memory; pass an array in host memory as a NumPy array"),
        (torch.zeros(3), "got Tensor in host memory"),
        (Capsule(torch.zeros(3), kind=10), "got Capsule in memory of DLPack's device type 10"),
        ("text", "with __cuda_array_interface__ or DLPack .*, got str"),
        (Interface(np.zeros(3), mask=object()), "without a mask"),
    ],
)
def test_other_values_are_refused(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_gpu_array(value)
