"""``pycuda.driver`` without a GPU: memory is the host's, and kernels run in the emulator.

What it checks on the way: that calls come with a context current, that a launch has as many arguments as it was
prepared for, and that each address is one of memory that is held.
"""

from __future__ import annotations

import ctypes
import re
import types
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.engines.plugins.emulated import library


class Driver(types.ModuleType):
    """In the place of the module.

    Attributes:
        memory: device memory that is held now, by its address.
        calls: what was launched, with the arguments.
        fail_at: this allocation, counted from 0, finds no memory left.
    """

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.memory: dict[int, npt.NDArray[np.uint8]] = {}
        self.calls: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
        self.fail_at: int | None = None
        self.contexts: list[str] = []
        self.held = 0
        self.alive: weakref.WeakSet[object] = weakref.WeakSet()
        self._allocated = 0
        self.Error = type("Error", (Exception,), {})

    def init(self) -> None:
        pass

    def Device(self, number: int) -> Device:
        if number:
            raise self.Error("cuDeviceGet failed: invalid device ordinal")
        return Device(self)

    def mem_alloc(self, size: int) -> Allocation:
        assert self.contexts
        if self._allocated == self.fail_at:
            raise self.Error("cuMemAlloc failed: out of memory")
        self._allocated += 1
        return Allocation(self, size)

    def Stream(self) -> Stream:
        return Stream(self)

    def Event(self) -> Event:
        return Event(self)

    def memcpy_htod(self, target: Allocation, source: npt.NDArray[Any]) -> None:
        assert self.contexts
        ctypes.memmove(int(target), source.ctypes.data, source.nbytes)

    def memcpy_dtoh(self, target: npt.NDArray[Any], source: int) -> None:
        assert self.contexts
        assert self.memory[source].nbytes == target.nbytes
        ctypes.memmove(target.ctypes.data, source, target.nbytes)

    def module_from_buffer(self, ptx: bytes) -> Module:
        assert self.contexts
        return Module(self, ptx.decode())


class Device:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def retain_primary_context(self) -> Device:
        self._driver.held += 1
        return self

    def push(self) -> None:
        self._driver.contexts.append("primary")

    def pop(self) -> None:
        self._driver.contexts.pop()

    def detach(self) -> None:
        assert not list(self._driver.alive), "streams, events and modules outlive their context"
        self._driver.held -= 1


class Allocation:
    def __init__(self, driver: Driver, size: int) -> None:
        self._driver, self._bytes = driver, np.full(size, 0x5A, np.uint8)
        driver.memory[int(self)] = self._bytes

    def __int__(self) -> int:
        return self._bytes.ctypes.data

    def free(self) -> None:
        assert self._driver.contexts
        del self._driver.memory[int(self)]


class Module:
    def __init__(self, driver: Driver, ptx: str) -> None:
        self._driver = driver
        driver.alive.add(self)
        self._entries = re.findall(r"\.visible \.entry (\w+)\(", ptx)

    def get_function(self, entry: str) -> Function:
        assert entry in self._entries
        return Function(self, self._driver, entry)


class Function:
    def __init__(self, module: Module, driver: Driver, entry: str) -> None:
        self._module = module  # held, as pycuda's functions do
        self._driver, self._entry, self._kinds = driver, entry, ""

    def prepare(self, kinds: str) -> Function:
        self._kinds = kinds
        return self

    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, ...], stream: Stream, *arguments: int
    ) -> None:
        assert self._driver.contexts
        assert isinstance(stream, Stream)
        match = re.fullmatch(r"(P+)(i+)(P+)", self._kinds)
        assert match is not None
        first, middle, last = map(len, match.groups())
        assert len(arguments) == first + middle + last
        inputs, integers, outputs = arguments[:first], arguments[first:-last], arguments[-last:]
        assert {*inputs, *outputs} <= set(self._driver.memory), "an address that was not allocated, or was freed"
        self._driver.calls.append((self._entry, grid, block, integers))
        failed = library(self._entry).run(
            *grid,
            block[0],
            (ctypes.c_void_p * first)(*inputs),
            (ctypes.c_int * middle)(*integers),
            (ctypes.c_void_p * last)(*outputs),
        )
        assert not failed


class Stream:
    def __init__(self, driver: Driver) -> None:
        driver.alive.add(self)

    def synchronize(self) -> None:
        pass


class Event:
    """Counts what was recorded before it, in the place of a clock."""

    recorded = 0

    def __init__(self, driver: Driver) -> None:
        driver.alive.add(self)

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        Event.recorded += 1
        self._at = Event.recorded

    def time_till(self, later: Event) -> float:
        return float(later._at - self._at)
