"""A CUDA driver that does nothing, in place of pycuda and cuda-bindings, to measure the host's part of the runner."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract

# A function in C that takes any arguments and does nothing, so that the calls themselves cost as little as possible.
NOTHING = "".format


class IdleNetwork:
    """A network of raw heads that does nothing, and is its own context."""

    half = raw = True
    batches = (1, 4)
    captures_graphs = False
    tensors = frozenset({"images", "cls_0"})

    def __init__(self, contract: DetectorContract) -> None:
        self.contract = contract

    def context(self, _batch: int, _addresses: Mapping[str, int]) -> IdleNetwork:
        return self

    def enqueue(self, _stream: Any) -> None: ...

    def save_cache(self) -> None: ...

    def close(self) -> None: ...


class _Memory:
    """An allocation on the host or the GPU, a stream, an event, a kernel, or a context."""

    handle = 1

    def __init__(self, array: npt.NDArray[Any] | None = None) -> None:
        if array is not None:
            self._array, self.__array_interface__ = array, array.__array_interface__

    def __int__(self) -> int:
        return 4096

    free = push = pop = detach = record = synchronize = wait_for_event = prepare = prepared_async_call = NOTHING

    def get_function(self, _name: str) -> _Memory:
        return self

    def get_attribute(self, _attribute: int) -> int:
        return 0

    def retain_primary_context(self) -> _Memory:
        return self


class _Driver(types.ModuleType):
    """The module ``pycuda.driver``."""

    Error = type("Error", (Exception,), {})
    MemoryError = type("MemoryError", (Error,), {})
    device_attribute = types.SimpleNamespace(INTEGRATED=18)
    host_alloc_flags = types.SimpleNamespace(DEVICEMAP=2)

    def init(self) -> None: ...

    def create(self, *_: Any) -> _Memory:
        return _Memory()

    Device = Stream = Event = mem_alloc = module_from_buffer = create

    def pagelocked_empty(self, size: int, dtype: Any, **_: int) -> npt.NDArray[Any]:
        return np.asarray(_Memory(np.zeros(size, dtype)))

    memcpy_htod_async = memcpy_dtoh_async = NOTHING


class _Bindings(types.ModuleType):
    """The module ``cuda.bindings.driver``."""

    CUresult = types.SimpleNamespace(CUDA_SUCCESS=0)
    CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    CUstream = int

    def make(self, *_: Any) -> tuple[int, int]:
        return 0, 1

    def use(self, *_: Any) -> tuple[int]:
        return (0,)

    cuStreamEndCapture = cuGraphInstantiate = make
    cuStreamBeginCapture = cuGraphLaunch = cuGraphDestroy = cuGraphExecDestroy = use
    cuMemHostRegister = cuMemHostUnregister = use


@contextmanager
def idle_driver() -> Iterator[None]:
    """Replace pycuda and cuda-bindings inside the block."""
    driver, bindings = _Driver("pycuda.driver"), _Bindings("cuda.bindings.driver")
    pycuda, cuda_bindings = types.ModuleType("pycuda"), types.ModuleType("cuda.bindings")
    pycuda.driver, cuda_bindings.driver = driver, bindings  # type: ignore[attr-defined]
    modules: dict[str, types.ModuleType] = {
        "pycuda": pycuda,
        "pycuda.driver": driver,
        "cuda": types.ModuleType("cuda"),
        "cuda.bindings": cuda_bindings,
    }
    with mock.patch.dict(sys.modules, modules), mock.patch("engines.core.cuda_context._retained", {}):
        yield
