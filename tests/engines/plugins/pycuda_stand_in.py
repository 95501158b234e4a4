"""``pycuda.driver`` without a GPU: memory is the host's, and kernels run in the emulator.

A stream does nothing until somebody waits, and then the streams go on in a random order, as far as their events let
them: what is not ordered by a stream or an event, or touches memory that a copy still needs, comes out wrong.

What it checks on the way: that calls come with a context current, that a launch has as many arguments as it was
prepared for, and that each address is one of memory that is held when the work is done.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import re
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, SupportsInt, TypeAlias

import numpy as np
import numpy.typing as npt

from tests.engines.plugins.emulated import library

Operation = Callable[[], None]


class Driver(types.ModuleType):
    """In the place of the module.

    Attributes:
        memory: device memory that is held now, by its address.
        pinned: host memory that is held now, by its address.
        calls: what was launched, with the arguments.
        log: every operation in the order of its execution.
        breaks: the operation whose recording another thread breaks off.
        fail_at: this allocation, of the device or pinned, counted from 0, finds no memory left.
        integrated: whether the GPU shares the host's memory.
    """

    def __init__(self, *, seed: int = 0, integrated: bool = False) -> None:
        super().__init__("pycuda.driver")
        self.memory: dict[int, npt.NDArray[np.uint8]] = {}
        self.pinned: dict[int, int] = {}
        self.calls: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
        self.log: list[str] = []
        self.fail_at: int | None = None
        self.integrated = integrated
        self.retained = 0
        self.alive: weakref.WeakSet[object] = weakref.WeakSet()
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.busy: dict[int, Stream] = {}  # work goes on when nobody holds its stream any more
        self.numbers = itertools.count(1)
        self.clock = itertools.count(1)
        self._local = threading.local()
        self._random = random.Random(seed)
        self._allocated = 0
        self.Error = type("Error", (Exception,), {})
        self.MemoryError = type("MemoryError", (self.Error,), {})
        self.breaks = ""  # this operation, when it is recorded
        self.device_attribute = types.SimpleNamespace(INTEGRATED=18)
        self.host_alloc_flags = types.SimpleNamespace(DEVICEMAP=2)

    @property
    def contexts(self) -> list[str]:
        """The stack of this thread."""
        if not hasattr(self._local, "contexts"):
            self._local.contexts = []
        return self._local.contexts  # type: ignore[no-any-return]

    def init(self) -> None:
        pass

    def Device(self, number: int) -> Device:
        if number:
            raise self.Error("cuDeviceGet failed: invalid device ordinal")
        return Device(self)

    def mem_alloc(self, size: int) -> Allocation:
        self._allocate("cuMemAlloc")
        return Allocation(self, size)

    def pagelocked_empty(self, size: int, dtype: Any, mem_flags: int = 0) -> npt.NDArray[Any]:
        self._allocate("cuMemHostAlloc")
        array = np.full(size * np.dtype(dtype).itemsize, 0x5A, np.uint8).view(Pinned)
        array.host = HostAllocation(self, array, mapped=bool(mem_flags & 2))
        return array.view(dtype)

    def Stream(self, flags: int = 0) -> Stream:
        return Stream(self, flags)

    def Event(self) -> Event:
        return Event(self)

    def memcpy_htod(self, target: SupportsInt, source: npt.NDArray[Any]) -> None:
        assert self.contexts
        self.check(int(target))
        ctypes.memmove(int(target), source.ctypes.data, source.nbytes)

    def memcpy_dtoh(self, target: npt.NDArray[Any], source: int) -> None:
        assert self.contexts
        self.check(int(source))
        ctypes.memmove(target.ctypes.data, int(source), target.nbytes)

    def memset_d8_async(self, target: int, value: int, size: int, stream: AnyStream) -> None:
        self.check(target)
        stream.put("memset", lambda: None)
        assert value == 0
        assert size <= len(self.memory[target])

    def memcpy_htod_async(self, target: SupportsInt, source: npt.NDArray[Any], stream: AnyStream) -> None:
        self._copy("to device", int(target), source.ctypes.data, source, stream)

    def memcpy_dtoh_async(self, target: npt.NDArray[Any], source: int, stream: AnyStream) -> None:
        self._copy("to host", target.ctypes.data, int(source), target, stream)

    def module_from_buffer(self, ptx: bytes) -> Module:
        assert self.contexts
        return Module(self, ptx.decode())

    def check(self, address: int) -> None:
        assert any(start <= address < start + block.nbytes for start, block in self.memory.items()), (
            "an address that was not allocated, or was freed"
        )

    def proceed(self, until: Callable[[], bool]) -> None:
        """Runs what is on the streams, in a random order, until that is so."""
        while not until():
            ready = [stream for stream in list(self.busy.values()) if stream.ready()]
            assert ready, "waits for what nobody will do"
            self._random.choice(ready).step()

    def _allocate(self, call: str) -> None:
        assert self.contexts
        if self._allocated == self.fail_at:
            raise self.MemoryError(f"{call} failed: out of memory")
        self._allocated += 1

    def _copy(self, name: str, target: int, source: int, host: npt.NDArray[Any], stream: AnyStream) -> None:
        assert self.contexts
        size = host.nbytes

        def copy() -> None:
            on_device, on_host = (target, source) if name == "to device" else (source, target)
            self.check(on_device)
            assert any(start <= on_host < start + held for start, held in self.pinned.items()), "not pinned, or freed"
            ctypes.memmove(target, source, size)

        stream.put(f"{name} {size}", copy)


class Device:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def get_attribute(self, attribute: int) -> int:
        assert attribute == self._driver.device_attribute.INTEGRATED
        return int(self._driver.integrated)

    def retain_primary_context(self) -> Device:
        time.sleep(0.01)  # as the driver, which lets other threads run meanwhile
        self._driver.retained += 1
        return self

    def push(self) -> None:
        self._driver.contexts.append("primary")

    def pop(self) -> None:
        self._driver.contexts.pop()

    def get_device(self) -> Device:
        return self


class Allocation:
    def __init__(self, driver: Driver, size: int) -> None:
        self._driver, self._bytes = driver, np.full(size, 0x5A, np.uint8)
        driver.memory[int(self)] = self._bytes

    def __int__(self) -> int:
        return self._bytes.ctypes.data

    def free(self) -> None:
        assert self._driver.contexts
        del self._driver.memory[int(self)]


class Pinned(np.ndarray[Any, Any]):
    """So that an array can carry what pycuda's carry as their base."""

    host: HostAllocation | None = None

    def __array_finalize__(self, parent: Any) -> None:
        self.host = getattr(parent, "host", None)

    @property
    def base(self) -> Any:
        return self.host


class HostAllocation:
    def __init__(self, driver: Driver, array: npt.NDArray[np.uint8], *, mapped: bool) -> None:
        self._driver, self._address, self._mapped = driver, array.ctypes.data, mapped
        driver.pinned[self._address] = array.nbytes
        if mapped:
            driver.memory[self._address] = np.asarray(array)

    def get_device_pointer(self) -> int:
        assert self._mapped
        return self._address

    def free(self) -> None:
        assert self._driver.contexts
        del self._driver.pinned[self._address]
        if self._mapped:
            del self._driver.memory[self._address]


class Owned:
    """What pycuda frees with its last reference, for which it needs a context."""

    def __init__(self, driver: Driver) -> None:
        assert driver.contexts
        self._driver = driver
        driver.alive.add(self)

    def __del__(self) -> None:
        assert self._driver.contexts, f"{type(self).__name__} is freed without a context"


class Module(Owned):
    def __init__(self, driver: Driver, ptx: str) -> None:
        super().__init__(driver)
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
        match = re.fullmatch(r"(P+)(i+)(P+)", self._kinds)
        assert match is not None
        first, middle, last = map(len, match.groups())
        assert len(arguments) == first + middle + last
        inputs, integers, outputs = arguments[:first], arguments[first:-last], arguments[-last:]
        self._driver.calls.append((self._entry, grid, block, integers))

        def run() -> None:
            for address in (*inputs, *outputs):
                self._driver.check(address)
            failed = library(self._entry).run(
                *grid,
                block[0],
                (ctypes.c_void_p * first)(*inputs),
                (ctypes.c_int * middle)(*integers),
                (ctypes.c_void_p * last)(*outputs),
            )
            assert not failed

        stream.put(self._entry, run)


class Stream(Owned):
    def __init__(self, driver: Driver, flags: int) -> None:
        super().__init__(driver)
        self.flags, self.handle = flags, next(driver.numbers)
        self._queue: deque[tuple[str, Operation, Callable[[], bool]]] = deque()
        self.recording: list[tuple[str, Operation]] | None = None
        driver.streams[self.handle] = self

    def put(self, name: str, operation: Operation, may: Callable[[], bool] | None = None) -> None:
        if self.recording is None:
            self._queue.append((name, operation, may or (lambda: True)))
            self._driver.busy[self.handle] = self
        else:
            assert may is None
            assert name != "event", "recorded in a graph, and waited for outside of it"
            if name == self._driver.breaks:
                raise self._driver.Error(f"{name} failed: operation failed due to a previous error during capture")
            self.recording.append((name, operation))

    def ready(self) -> bool:
        return bool(self._queue) and self._queue[0][2]()

    def step(self) -> None:
        name, operation, _ = self._queue.popleft()
        if not self._queue:
            del self._driver.busy[self.handle]
        self._driver.log.append(name)
        operation()

    def wait_for_event(self, event: Event) -> None:
        self.put("wait", lambda: None, event.reached(event.recorded))

    def synchronize(self) -> None:
        assert self._driver.contexts
        assert self.recording is None, "waits for what is only being recorded"
        self._driver.proceed(lambda: not self._queue)


AnyStream: TypeAlias = Stream


class Event(Owned):
    """Its clock counts the operations of all streams."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.recorded, self._done, self._at = 0, 0, 0

    def record(self, stream: Stream) -> Event:
        assert self._driver.contexts
        self.recorded += 1
        number = self.recorded

        def reach() -> None:
            self._done, self._at = number, next(self._driver.clock)

        stream.put("event", reach)
        return self

    def reached(self, number: int) -> Callable[[], bool]:
        return lambda: self._done >= number

    def synchronize(self) -> None:
        assert self._driver.contexts
        self._driver.proceed(self.reached(self.recorded))

    def time_till(self, later: Event) -> float:
        return float(later._at - self._at)
